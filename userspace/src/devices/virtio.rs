// SPDX-License-Identifier: GPL-2.0-or-later

//! Virtio devices (Virtual I/O Device version 1.2).

pub mod blk;
