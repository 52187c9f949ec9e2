// SPDX-License-Identifier: GPL-2.0

//! The decoder.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ironvm_pc_fuzz::decoding(data));
