// SPDX-License-Identifier: GPL-2.0-or-later

//! Booting a Linux kernel without firmware: the kernel, its command line, initrd, memory map and
//! ACPI tables go into guest memory, and the first vCPU starts at the kernel's entry point.
//!
//! Two kinds of kernel are understood: a bzImage, entered by the 64-bit boot protocol
//! ([`bzimage`]), and an ELF file with a PVH entry point ([`pvh`]).

pub mod acpi;
mod aml;
mod bzimage;
pub mod e820;
pub mod layout;
mod pvh;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use anyhow::{anyhow, bail, Context, Result};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use self::bzimage::BzImage;
use self::pvh::PvhElf;
use crate::memory;
use crate::size::ByteSize;

/// Where the first vCPU starts, and in which mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 64-bit mode, paging on, `rsi` at the boot parameters.
    Long { rip: u64, boot_params: u64 },
    /// 32-bit protected mode, paging off, `ebx` at the start info.
    Pvh { eip: u64, start_info: u64 },
}

/// What a kernel image needs of low memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needs {
    /// First address past the memory the kernel uses before it looks at the memory map.
    kernel_end: u64,
    /// Highest address the initrd's last byte may have.
    initrd_max: u64,
    /// Longest command line, without the terminating NUL.
    cmdline_max: u64,
}

enum Format {
    BzImage(BzImage),
    Pvh(PvhElf),
}

/// A kernel image that can be booted.
pub struct Kernel {
    file: File,
    format: Format,
}

/// An initial RAM disk, open for reading.
pub struct Initrd {
    pub file: File,
    pub size: u64,
}

/// An initrd's place in guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Placed {
    address: u64,
    size: u64,
}

impl Kernel {
    /// Finds out what kind of kernel `file` is.
    ///
    /// # Errors
    ///
    /// A sentence for the user, when it is none that can be booted.
    pub fn recognize(mut file: File) -> Result<Self> {
        let mut head = Vec::new();
        file.rewind()
            .and_then(|()| (&file).take(bzimage::HEADER_END).read_to_end(&mut head))
            .context("cannot read it")?;
        let format = if head.starts_with(b"\x7fELF") {
            Format::Pvh(PvhElf::parse(&mut file)?)
        } else if bzimage::has_magic(&head) {
            let size = file
                .seek(SeekFrom::End(0))
                .context("cannot find out its size")?;
            Format::BzImage(BzImage::parse(&head, size)?)
        } else {
            bail!("this is not a Linux kernel for x86; name a bzImage (/boot/vmlinuz-*) or an ELF vmlinux");
        };
        Ok(Self { file, format })
    }

    fn needs(&self) -> Needs {
        match &self.format {
            Format::BzImage(image) => image.needs(),
            Format::Pvh(elf) => elf.needs(),
        }
    }

    /// Checks that kernel, initrd and command line fit into a guest with `memory`.
    ///
    /// # Errors
    ///
    /// A sentence for the user.
    pub fn check_fit(&self, memory: ByteSize, initrd_size: u64, append: &str) -> Result<()> {
        let needs = self.needs();
        if append.len() as u64 > needs.cmdline_max {
            bail!(
                "the command line has {} bytes and this kernel takes {}; shorten --append",
                append.len(),
                needs.cmdline_max
            );
        }
        let low_end = low_memory_end(memory);
        if needs.kernel_end > low_end {
            bail!(
                "this kernel needs {} of memory to start and the guest has {memory}; ask for more with --memory",
                ByteSize(needs.kernel_end)
            );
        }
        if initrd_size > 0 && place_initrd(&needs, low_end, initrd_size).is_none() {
            bail!(
                "the initrd of {} does not fit beside the kernel into {memory} of memory; ask for at least {} with --memory",
                ByteSize(initrd_size),
                ByteSize(needs.kernel_end.saturating_add(initrd_size.saturating_mul(2)))
            );
        }
        Ok(())
    }

    /// Puts everything the guest starts with into `memory`.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or changed since it was checked.
    pub fn load(
        &self,
        memory: &GuestMemoryMmap,
        size: ByteSize,
        initrd: Option<&Initrd>,
        append: &str,
        acpi: &acpi::Machine,
    ) -> Result<Entry> {
        let placed = match initrd {
            Some(initrd) => load_initrd(memory, initrd, &self.needs(), low_memory_end(size))?,
            None => Placed::default(),
        };
        write_cmdline(memory, append)?;
        let tables = acpi::build(acpi, layout::ACPI_START);
        if tables.len() as u64 > layout::ACPI_SIZE {
            bail!("the ACPI tables do not fit");
        }
        memory
            .write_slice(&tables, GuestAddress(layout::ACPI_START))
            .context("cannot write the ACPI tables")?;
        let map = e820::map(&memory::ranges(size));
        // The image is read through a handle of its own: `self` stays as it is for the next boot.
        let mut file = self.file.try_clone().context("cannot read the kernel")?;
        match &self.format {
            Format::BzImage(image) => image.load(memory, &mut file, &map, placed, append),
            Format::Pvh(elf) => elf.load(memory, &mut file, &map, placed),
        }
    }
}

fn low_memory_end(memory: ByteSize) -> u64 {
    memory.0.min(memory::HOLE_START)
}

/// As high in low memory as it may lie, where the kernel's own unpacking does not reach it.
fn place_initrd(needs: &Needs, low_end: u64, size: u64) -> Option<u64> {
    let limit = low_end.min(needs.initrd_max.saturating_add(1));
    let address = limit.checked_sub(size)? & !(layout::PAGE_SIZE - 1);
    (address >= needs.kernel_end).then_some(address)
}

fn load_initrd(
    memory: &GuestMemoryMmap,
    initrd: &Initrd,
    needs: &Needs,
    low_end: u64,
) -> Result<Placed> {
    let address = place_initrd(needs, low_end, initrd.size)
        .ok_or_else(|| anyhow!("the initrd does not fit into memory"))?;
    let mut file = initrd.file.try_clone().context("cannot read the initrd")?;
    file.rewind().context("cannot read the initrd")?;
    memory
        .read_exact_volatile_from(
            GuestAddress(address),
            &mut file,
            usize::try_from(initrd.size)?,
        )
        .context("cannot read the initrd; did it change meanwhile?")?;
    Ok(Placed {
        address,
        size: initrd.size,
    })
}

fn write_cmdline(memory: &GuestMemoryMmap, append: &str) -> Result<()> {
    let mut bytes = append.as_bytes().to_vec();
    bytes.push(0);
    memory
        .write_slice(&bytes, GuestAddress(layout::CMDLINE_START))
        .context("cannot write the kernel command line")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::MIB;

    const NEEDS: Needs = Needs {
        kernel_end: 64 * MIB,
        initrd_max: 0x7fff_ffff,
        cmdline_max: 2047,
    };

    #[test]
    fn initrd_lies_at_the_top_of_low_memory() {
        assert_eq!(
            place_initrd(&NEEDS, 128 * MIB, 4096),
            Some(128 * MIB - 4096)
        );
        assert_eq!(place_initrd(&NEEDS, 128 * MIB, 1), Some(128 * MIB - 4096));
        assert_eq!(place_initrd(&NEEDS, 128 * MIB, 64 * MIB), Some(64 * MIB));
    }

    #[test]
    fn initrd_keeps_below_its_limit() {
        assert_eq!(place_initrd(&NEEDS, 3 << 30, MIB), Some((2 << 30) - MIB));
    }

    #[test]
    fn initrd_too_large_for_memory() {
        assert_eq!(place_initrd(&NEEDS, 128 * MIB, 64 * MIB + 1), None);
        assert_eq!(place_initrd(&NEEDS, 128 * MIB, u64::MAX), None);
    }

    #[test]
    fn garbage_is_no_kernel() {
        let path = std::env::temp_dir().join(format!("ironvm-test-kernel-{}", std::process::id()));
        for content in [&b""[..], b"\x7fELF", &[0; 4096], b"#!/bin/sh\n"] {
            std::fs::write(&path, content).unwrap();
            assert!(Kernel::recognize(File::open(&path).unwrap()).is_err());
        }
        std::fs::remove_file(&path).unwrap();
    }
}
