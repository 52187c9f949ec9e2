// SPDX-License-Identifier: GPL-2.0

//! The emulator, fetching, and page walks.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    ironvm_pc_fuzz::emulation(data);
    ironvm_pc_fuzz::fetching(data);
    ironvm_pc_fuzz::walking(data);
});
