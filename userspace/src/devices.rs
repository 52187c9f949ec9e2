// SPDX-License-Identifier: GPL-2.0-or-later

//! The devices of the machine, one file each. All sit on a [`crate::bus::Bus`].

pub mod acpi_pm;
pub mod cmos;
pub mod exit_port;
pub mod i8042;
pub mod pci;
pub mod pvpanic;
pub mod reset;
pub mod serial;
pub mod virtio;

#[cfg(test)]
mod random_access;
