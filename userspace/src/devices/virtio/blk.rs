// SPDX-License-Identifier: GPL-2.0-or-later

//! The virtio block device (virtio 1.2, 5.2).

/// The unit of the device's addresses, in bytes.
pub const SECTOR_SIZE: u64 = 512;
