// SPDX-License-Identifier: GPL-2.0-or-later

//! A guest that never stops checking its memory, while the host does to it all that a host does.
//!
//! Two vCPUs write a pattern that depends on address and round over their halves of the memory, and
//! check the round before as they go. One wrong word ends the test. Under them the host pages out,
//! splits and collapses huge pages, compacts, merges, copies on write, forbids access for a while,
//! moves the mapping.

mod host;
mod swap;
mod writers;

use ironvm_abi_tests::harness::Test;
use ironvm_abi_tests::test;

const TESTS: &[Test] = &[
    test!("memory", undisturbed, 120),
    test!("memory", page_out, 180),
    test!("memory", page_out_with_swap, 180),
    test!("memory", huge_pages_come_and_go, 180),
    test!("memory", collapse, 180),
    test!("memory", compaction_and_migration, 180),
    test!("memory", merged_by_ksm, 180),
    test!("memory", copied_on_write_by_fork, 180),
    test!("memory", write_protected_for_a_while, 180),
    test!("memory", unreadable_for_a_while, 180),
    test!("memory", moved_and_moved_back, 180),
    test!("memory", dirty_log_on_and_off, 180),
    test!("memory", slot_deleted_and_made, 180),
    test!("memory", dropped_pages_read_zero, 180),
    test!("memory", dropped_file_pages, 180),
    test!("memory", balloon_on_fresh_memory, 180),
];

use host::*;

fn main() {
    std::process::exit(ironvm_abi_tests::harness::main(&[TESTS]));
}
