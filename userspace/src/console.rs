// SPDX-License-Identifier: GPL-2.0-or-later

//! The guest's console on this side: the terminal, the keys that are ours, and output.

pub mod escape;
pub mod output;
pub mod terminal;
