// SPDX-License-Identifier: GPL-2.0-or-later

//! An ELF kernel with a PVH entry point: a note of type `XEN_ELFNOTE_PHYS32_ENTRY` names a 32-bit
//! address to enter in protected mode without paging
//! (xen/include/public/arch-x86/hvm/start_info.h describes what is passed).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use anyhow::{anyhow, bail, Context, Result};
use linux_loader::elf::{Elf64_Ehdr, Elf64_Phdr, PT_LOAD, PT_NOTE};
use linux_loader::loader::elf::Elf;
use linux_loader::loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::KernelLoader;
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::e820::Range;
use super::{layout, Entry, Needs, Placed};

const START_INFO_MAGIC: u32 = 0x336e_c578;
/// The first version with a memory map.
const START_INFO_VERSION: u32 = 1;
const ELF_CLASS_64: u8 = 2;
const ELF_MACHINE_X86_64: u16 = 62;
/// More program headers than a kernel has; a bound on what a hostile file makes us read.
const MOST_SEGMENTS: u16 = 128;
/// Linux's own limit on x86, less the NUL.
const CMDLINE_MAX: u64 = 2047;

/// An ELF kernel image.
pub struct PvhElf {
    kernel_end: u64,
    entry: u64,
}

/// A wrapper makes the loader's C structure one that may be written to guest memory.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct StartInfo(hvm_start_info);
// SAFETY: a C structure of integers without padding, see the size check below.
unsafe impl ByteValued for StartInfo {}
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct Module(hvm_modlist_entry);
// SAFETY: as above.
unsafe impl ByteValued for Module {}
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct MemmapEntry(hvm_memmap_table_entry);
// SAFETY: as above.
unsafe impl ByteValued for MemmapEntry {}

const _: () = assert!(size_of::<StartInfo>() == 7 * 8);
const _: () = assert!(size_of::<Module>() == 4 * 8);
const _: () = assert!(size_of::<MemmapEntry>() == 3 * 8);

impl PvhElf {
    /// Reads the headers of an ELF file.
    pub fn parse(file: &mut File) -> Result<Self> {
        let mut header = Elf64_Ehdr::default();
        file.rewind()
            .and_then(|()| file.read_exact(header.as_mut_slice()))
            .context("the ELF header is cut off")?;
        if header.e_ident.get(4) != Some(&ELF_CLASS_64) || header.e_machine != ELF_MACHINE_X86_64 {
            bail!("this ELF file is not for x86-64");
        }
        if header.e_phnum == 0
            || header.e_phnum > MOST_SEGMENTS
            || usize::from(header.e_phentsize) != size_of::<Elf64_Phdr>()
        {
            bail!("this ELF file is not a kernel: it has no usable program headers");
        }
        file.seek(SeekFrom::Start(header.e_phoff))
            .context("cannot read the program headers")?;
        let mut segments = Vec::new();
        for _ in 0..header.e_phnum {
            let mut segment = Elf64_Phdr::default();
            file.read_exact(segment.as_mut_slice())
                .context("the program headers are cut off")?;
            segments.push(segment);
        }
        let mut kernel_end = 0;
        for segment in segments.iter().filter(|segment| segment.p_type == PT_LOAD) {
            kernel_end = kernel_end.max(Self::segment_end(segment)?);
        }
        if kernel_end == 0 {
            bail!("this ELF file is not a kernel: nothing in it is to be loaded");
        }
        let mut entry = None;
        for segment in segments.iter().filter(|segment| segment.p_type == PT_NOTE) {
            entry = entry.or(find_entry(&read_notes(file, segment)?));
        }
        let entry = entry
            .ok_or_else(|| anyhow!("this ELF kernel has no PVH entry point: build it with CONFIG_PVH=y, or boot its bzImage"))?;
        Ok(Self { kernel_end, entry })
    }

    fn segment_end(segment: &Elf64_Phdr) -> Result<u64> {
        if segment.p_paddr < layout::HIGH_RAM_START {
            bail!("this ELF file is not a Linux kernel: it wants to lie below 1 MiB");
        }
        segment
            .p_paddr
            .checked_add(segment.p_memsz.max(segment.p_filesz))
            .ok_or_else(|| anyhow!("the program headers of this ELF file make no sense"))
    }

    pub fn needs(&self) -> Needs {
        Needs {
            kernel_end: self.kernel_end,
            initrd_max: u64::from(u32::MAX),
            cmdline_max: CMDLINE_MAX,
        }
    }

    /// Puts the kernel and its start info into `memory`.
    pub fn load(
        &self,
        memory: &GuestMemoryMmap,
        file: &mut File,
        map: &[Range],
        initrd: Placed,
    ) -> Result<Entry> {
        Elf::load(memory, None, file, None)
            .map_err(|error| anyhow!("cannot load the kernel ({error})"))?;
        let modules = u32::from(initrd.size > 0);
        let info = StartInfo(hvm_start_info {
            magic: START_INFO_MAGIC,
            version: START_INFO_VERSION,
            nr_modules: modules,
            modlist_paddr: if modules > 0 { layout::PVH_MODULES } else { 0 },
            cmdline_paddr: layout::CMDLINE_START,
            rsdp_paddr: layout::ACPI_START,
            memmap_paddr: layout::PVH_MEMMAP,
            memmap_entries: u32::try_from(map.len())?,
            ..Default::default()
        });
        let module = Module(hvm_modlist_entry {
            paddr: initrd.address,
            size: initrd.size,
            ..Default::default()
        });
        let entries: Vec<u8> = map
            .iter()
            .flat_map(|range| {
                let entry = MemmapEntry(hvm_memmap_table_entry {
                    addr: range.start,
                    size: range.size,
                    type_: range.kind as u32,
                    reserved: 0,
                });
                entry.as_slice().to_vec()
            })
            .collect();
        memory
            .write_obj(info, GuestAddress(layout::PVH_START_INFO))
            .and_then(|()| memory.write_obj(module, GuestAddress(layout::PVH_MODULES)))
            .and_then(|()| memory.write_slice(&entries, GuestAddress(layout::PVH_MEMMAP)))
            .context("cannot write the PVH start info")?;
        Ok(Entry::Pvh {
            eip: self.entry,
            start_info: layout::PVH_START_INFO,
        })
    }
}

/// More notes than a kernel has, in bytes.
const MOST_NOTES: u64 = 1 << 20;

fn read_notes(file: &mut File, segment: &Elf64_Phdr) -> Result<Vec<u8>> {
    let mut notes = Vec::new();
    file.seek(SeekFrom::Start(segment.p_offset))
        .and_then(|_| {
            file.take(segment.p_filesz.min(MOST_NOTES))
                .read_to_end(&mut notes)
        })
        .context("cannot read the notes of this ELF file")?;
    Ok(notes)
}

/// The PVH entry point, if one of `notes` names it.
fn find_entry(notes: &[u8]) -> Option<u64> {
    const OWNER: &[u8] = b"Xen\0";
    const PHYS32_ENTRY: u32 = 18;
    const ALIGNMENT: usize = 4;
    fn take<'a>(rest: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
        let (taken, left) = rest.split_at_checked(size)?;
        // The padding of the last note may be missing.
        let padding = size.next_multiple_of(ALIGNMENT) - size;
        *rest = left.get(padding..).unwrap_or_default();
        Some(taken)
    }
    fn number(rest: &mut &[u8]) -> Option<u32> {
        Some(u32::from_le_bytes(take(rest, 4)?.try_into().ok()?))
    }
    let mut rest = notes;
    while !rest.is_empty() {
        let name_size = number(&mut rest)?;
        let value_size = number(&mut rest)?;
        let kind = number(&mut rest)?;
        let name = take(&mut rest, name_size as usize)?;
        let value = take(&mut rest, value_size as usize)?;
        if kind == PHYS32_ENTRY && name == OWNER {
            return number(&mut &*value).map(u64::from);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(owner: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
        let pad = |bytes: &[u8]| {
            let mut padded = bytes.to_vec();
            padded.resize(bytes.len().next_multiple_of(4), 0);
            padded
        };
        let mut bytes = (owner.len() as u32).to_le_bytes().to_vec();
        bytes.extend((value.len() as u32).to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(pad(owner));
        bytes.extend(pad(value));
        bytes
    }

    #[test]
    fn entry_is_found_among_other_notes() {
        let notes = [
            note(b"GNU\0", 18, &[9; 20]),
            note(b"Xen\0", 6, b"linux"),
            note(b"Xen\0", 18, &0x0100_0470u64.to_le_bytes()),
        ]
        .concat();
        assert_eq!(find_entry(&notes), Some(0x0100_0470));
    }

    #[test]
    fn broken_notes_have_no_entry() {
        assert_eq!(find_entry(&[]), None);
        assert_eq!(find_entry(&note(b"GNU\0", 18, &[1; 4])), None);
        let whole = note(b"Xen\0", 18, &[1; 4]);
        for length in 1..whole.len() {
            assert_eq!(find_entry(&whole[..length]), None);
        }
        let mut huge = whole.clone();
        huge[..4].copy_from_slice(&[0xff; 4]);
        assert_eq!(find_entry(&huge), None);
    }
}
