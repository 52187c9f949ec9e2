// SPDX-License-Identifier: GPL-2.0-or-later

//! A bzImage, entered by the 64-bit boot protocol
//! (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

use std::fs::File;

use anyhow::{anyhow, bail, Context, Result};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::KernelLoader;
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::e820::Range;
use super::{layout, Entry, Needs, Placed};

/// Offset of the setup header in the file.
const HEADER_START: usize = 0x1f1;
/// How much of the file the setup header reaches into.
pub const HEADER_END: u64 = (HEADER_START + size_of::<setup_header>()) as u64;
const MAGIC_OFFSET: usize = 0x202;
const MAGIC: [u8; 4] = *b"HdrS";

/// The 64-bit entry point, counted from where the protected-mode code is loaded.
const ENTRY_64: u64 = 0x200;
/// The first protocol version with `xloadflags`.
const LEAST_VERSION: u16 = 0x020c;
/// `xloadflags`: the kernel has the 64-bit entry point.
const XLF_KERNEL_64: u16 = 1 << 0;
/// `type_of_loader`: a loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
const SECTOR: u64 = 512;

/// Whether the first bytes of a file are those of a bzImage.
pub fn has_magic(head: &[u8]) -> bool {
    head.get(MAGIC_OFFSET..MAGIC_OFFSET + MAGIC.len()) == Some(&MAGIC)
}

/// The setup header of a kernel that can be booted.
pub struct BzImage {
    header: setup_header,
    /// Bytes of protected-mode code in the file.
    code_size: u64,
}

impl BzImage {
    /// Reads the setup header in `head`, the beginning of a file of `file_size` bytes.
    pub fn parse(head: &[u8], file_size: u64) -> Result<Self> {
        let mut header = setup_header::default();
        let bytes = head
            .get(HEADER_START..HEADER_START + size_of::<setup_header>())
            .ok_or_else(|| anyhow!("the kernel image is cut off"))?;
        header.as_mut_slice().copy_from_slice(bytes);
        let (version, flags) = (header.version, header.xloadflags);
        if version < LEAST_VERSION || flags & XLF_KERNEL_64 == 0 {
            bail!("this kernel has no 64-bit entry point; ironvm boots x86-64 kernels since Linux 3.8");
        }
        let setup_sectors = match header.setup_sects {
            0 => 4,
            sectors => u64::from(sectors),
        };
        let code_size = file_size
            .checked_sub((setup_sectors + 1) * SECTOR)
            .filter(|size| *size > 0)
            .ok_or_else(|| anyhow!("the kernel image is cut off"))?;
        Ok(Self { header, code_size })
    }

    pub fn needs(&self) -> Needs {
        let header = &self.header;
        let (preferred, alignment) = (
            header.pref_address,
            u64::from(header.kernel_alignment).max(1),
        );
        let runtime_start = if header.relocatable_kernel != 0 {
            layout::HIGH_RAM_START
                .max(preferred)
                .checked_next_multiple_of(alignment)
                .unwrap_or(u64::MAX)
        } else {
            preferred
        };
        let unpacked_end = runtime_start.saturating_add(u64::from(header.init_size));
        let loaded_end = layout::HIGH_RAM_START.saturating_add(self.code_size);
        Needs {
            kernel_end: unpacked_end.max(loaded_end),
            initrd_max: u64::from(header.initrd_addr_max),
            cmdline_max: u64::from(header.cmdline_size),
        }
    }

    /// Puts the kernel, its boot parameters and first page tables into `memory`.
    pub fn load(
        &self,
        memory: &GuestMemoryMmap,
        file: &mut File,
        map: &[Range],
        initrd: Placed,
        append: &str,
    ) -> Result<Entry> {
        let load = GuestAddress(layout::HIGH_RAM_START);
        linux_loader::loader::BzImage::load(memory, Some(load), file, None)
            .map_err(|error| anyhow!("cannot load the kernel ({error}); did the file change?"))?;
        let params = self.boot_params(map, initrd, append)?;
        memory
            .write_obj(params, GuestAddress(layout::BOOT_PARAMS))
            .context("cannot write the boot parameters")?;
        write_page_tables(memory)?;
        Ok(Entry::Long {
            rip: load.0 + ENTRY_64,
            boot_params: layout::BOOT_PARAMS,
        })
    }

    fn boot_params(&self, map: &[Range], initrd: Placed, append: &str) -> Result<boot_params> {
        let mut params = boot_params {
            hdr: self.header,
            acpi_rsdp_addr: layout::ACPI_START,
            ..Default::default()
        };
        params.hdr.type_of_loader = LOADER_UNDEFINED;
        params.hdr.code32_start = u32::try_from(layout::HIGH_RAM_START)?;
        params.hdr.cmd_line_ptr = u32::try_from(layout::CMDLINE_START)?;
        params.hdr.cmdline_size = u32::try_from(append.len())?;
        params.hdr.ramdisk_image = u32::try_from(initrd.address)?;
        params.hdr.ramdisk_size = u32::try_from(initrd.size)?;
        params.e820_entries = u8::try_from(map.len())?;
        let mut table = params.e820_table;
        for (entry, range) in table.iter_mut().zip(map) {
            *entry = boot_e820_entry {
                addr: range.start,
                size: range.size,
                type_: range.kind as u32,
            };
        }
        params.e820_table = table;
        Ok(params)
    }
}

/// Maps the first 4 GiB to themselves, in pages of 2 MiB.
fn write_page_tables(memory: &GuestMemoryMmap) -> Result<()> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    const DIRECTORIES: u64 = 4;
    const ENTRIES: u64 = 512;
    const LARGE_SIZE: u64 = 2 << 20;
    let pdpt = layout::PAGE_TABLES + layout::PAGE_SIZE;
    let directories = pdpt + layout::PAGE_SIZE;
    let put = |table: u64, index: u64, entry: u64| {
        memory
            .write_obj(entry.to_le(), GuestAddress(table + index * 8))
            .context("cannot write the first page tables")
    };
    put(layout::PAGE_TABLES, 0, pdpt | PRESENT_WRITABLE)?;
    for index in 0..DIRECTORIES {
        put(
            pdpt,
            index,
            (directories + index * layout::PAGE_SIZE) | PRESENT_WRITABLE,
        )?;
    }
    for index in 0..DIRECTORIES * ENTRIES {
        // The directories follow each other, so one index runs through all of them.
        put(
            directories,
            index,
            (index * LARGE_SIZE) | PRESENT_WRITABLE | LARGE,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::e820;
    use crate::memory;
    use crate::size::{ByteSize, MIB};

    fn head(change: impl FnOnce(&mut setup_header)) -> Vec<u8> {
        let mut header = setup_header {
            setup_sects: 3,
            header: u32::from_le_bytes(MAGIC),
            version: 0x020f,
            xloadflags: XLF_KERNEL_64,
            relocatable_kernel: 1,
            kernel_alignment: 0x20_0000,
            pref_address: 0x100_0000,
            init_size: 0x200_0000,
            initrd_addr_max: 0x7fff_ffff,
            cmdline_size: 2047,
            ..Default::default()
        };
        change(&mut header);
        let mut head = vec![0; HEADER_START];
        head.extend_from_slice(header.as_slice());
        head
    }

    #[test]
    fn header_is_understood() {
        let head = head(|_| ());
        assert!(has_magic(&head));
        let image = BzImage::parse(&head, 4 * SECTOR + MIB).unwrap();
        assert_eq!(image.code_size, MIB);
        let needs = image.needs();
        assert_eq!(needs.kernel_end, 0x300_0000);
        assert_eq!(needs.initrd_max, 0x7fff_ffff);
        assert_eq!(needs.cmdline_max, 2047);
    }

    #[test]
    fn hostile_headers_do_not_overflow() {
        let head = head(|header| {
            header.pref_address = u64::MAX - 5;
            header.init_size = u32::MAX;
            header.kernel_alignment = 0;
        });
        let image = BzImage::parse(&head, u64::MAX).unwrap();
        assert_eq!(image.needs().kernel_end, u64::MAX);
    }

    #[test]
    fn unusable_images_are_refused() {
        let whole = 4 * SECTOR + MIB;
        assert!(BzImage::parse(&head(|h| h.xloadflags = 0), whole).is_err());
        assert!(BzImage::parse(&head(|h| h.version = 0x0200), whole).is_err());
        assert!(BzImage::parse(&head(|_| ()), 4 * SECTOR).is_err());
        assert!(BzImage::parse(&head(|_| ())[..0x210], whole).is_err());
        assert!(!has_magic(&[0; 0x203]));
    }

    #[test]
    fn parameters_carry_map_and_initrd() {
        let image = BzImage::parse(&head(|_| ()), 4 * SECTOR + MIB).unwrap();
        let map = e820::map(&memory::ranges(ByteSize(512 * MIB)));
        let placed = Placed {
            address: 0x1f00_0000,
            size: 12345,
        };
        let params = image.boot_params(&map, placed, "quiet").unwrap();
        let (image, size, entries) = (
            params.hdr.ramdisk_image,
            params.hdr.ramdisk_size,
            params.e820_entries,
        );
        assert_eq!((image, size), (0x1f00_0000, 12345));
        assert_eq!(usize::from(entries), map.len());
        let rsdp = params.acpi_rsdp_addr;
        assert_eq!(rsdp, layout::ACPI_START);
    }

    #[test]
    fn page_tables_map_4_gib_to_themselves() {
        let memory =
            GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MIB as usize)]).unwrap();
        write_page_tables(&memory).unwrap();
        let entry = |address| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        for address in [0u64, 0x20_0000, 0x1234_5678, 0xffff_ffff] {
            let pdpt = entry(layout::PAGE_TABLES) & !0xfff;
            let directory = entry(pdpt + (address >> 30) * 8) & !0xfff;
            let leaf = entry(directory + ((address >> 21) & 511) * 8);
            assert_eq!(leaf, (address & !0x1f_ffff) | 0x83);
        }
    }
}
