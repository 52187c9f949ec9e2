// SPDX-License-Identifier: GPL-2.0-or-later

//! The disk that the machine in Bochs boots from: loader, kernel, initramfs.

use super::loader;
use anyhow::{bail, Context, Result};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

const SECTOR: u64 = 512;
/// Bochs knows disks of whole cylinders only.
const CYLINDER: u64 = 16 * 63 * SECTOR;
/// Where the command line is put; the setup code's heap ends below.
const COMMAND_LINE_AT: u32 = 0x9_e000;
/// The longest command line for which there is room.
const COMMAND_LINE_MAX: usize = 0x1000;
/// Bochs' BIOS keeps its tables at the end of memory.
const BIOS_TABLES: u64 = 1 << 20;

/// Offsets in the setup code (Linux/x86 boot protocol, "The Real-Mode Kernel
/// Header").
mod header {
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const MAGIC: usize = 0x202;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const LOADFLAGS: usize = 0x211;
    pub const CAN_USE_HEAP: u8 = 0x80;
    pub const CODE32_START: usize = 0x214;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const HEAP_END_PTR: usize = 0x224;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const PAYLOAD_OFFSET: usize = 0x248;
    pub const PAYLOAD_LENGTH: usize = 0x24c;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
    /// The header's end as far as it is used here.
    pub const END: usize = 0x264;
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// The setup code of the bzImage `kernel`: its first sectors.
fn setup_code(kernel: &[u8]) -> Result<&[u8]> {
    if kernel.len() < header::END || kernel.get(header::MAGIC..header::MAGIC + 4) != Some(b"HdrS") {
        bail!("the kernel is no bzImage");
    }
    let sectors = match kernel[header::SETUP_SECTS] {
        0 => 4,
        count => usize::from(count),
    };
    kernel
        .get(..(sectors + 1) * SECTOR as usize)
        .context("the kernel is too short")
}

/// The compressed kernel in the bzImage `kernel`.
pub fn payload(kernel: &[u8]) -> Result<&[u8]> {
    let setup = setup_code(kernel)?.len();
    let offset = u32_at(kernel, header::PAYLOAD_OFFSET).unwrap_or(0) as usize;
    let length = u32_at(kernel, header::PAYLOAD_LENGTH).unwrap_or(0) as usize;
    // Its last four bytes say how long it is decompressed.
    kernel
        .get(setup + offset..)
        .and_then(|rest| rest.get(..length.checked_sub(4)?))
        .context("the kernel's payload is not in it")
}

/// A part of an ELF file that is to be loaded.
#[derive(Debug, PartialEq, Eq)]
struct Segment {
    address: u64,
    offset: u64,
    length: u64,
}

/// The parts of the 64-bit ELF file `elf` that have contents, and its entry
/// point.
fn segments(elf: &[u8]) -> Option<(Vec<Segment>, u64)> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let entry = u64_at(elf, 24)?;
    let table = usize::try_from(u64_at(elf, 32)?).ok()?;
    let size = usize::from(u16::from_le_bytes(*elf.get(54..)?.first_chunk()?));
    let count = usize::from(u16::from_le_bytes(*elf.get(56..)?.first_chunk()?));
    let mut found = Vec::new();
    for index in 0..count {
        let row = elf.get(table.checked_add(size * index)?..)?;
        let segment = Segment {
            address: u64_at(row, 24)?,
            offset: u64_at(row, 8)?,
            length: u64_at(row, 32)?,
        };
        if u32_at(row, 0)? == 1 && segment.length > 0 {
            found.push(segment);
        }
    }
    Some((found, entry))
}

/// What the disk is made of.
pub struct Contents<'a> {
    /// The bzImage, for its setup code.
    pub kernel: &'a Path,
    /// The same kernel, decompressed.
    pub vmlinux: &'a Path,
    pub command_line: &'a str,
    pub initrd: &'a Path,
    pub memory_mib: u32,
}

/// Writes the image of the disk.
pub fn write(to: &Path, contents: &Contents) -> Result<()> {
    let read_head = |path: &Path, length: u64| -> Result<Vec<u8>> {
        let file = File::open(path).with_context(|| format!("no {}", path.display()))?;
        let mut head = Vec::new();
        file.take(length).read_to_end(&mut head)?;
        Ok(head)
    };
    let kernel = read_head(contents.kernel, 64 << 10)?;
    let vmlinux = read_head(contents.vmlinux, 64 << 10)?;
    let (segments, entry) = segments(&vmlinux).context("the kernel in the bzImage is no ELF")?;
    let mut setup = setup_code(&kernel)?.to_owned();
    let mut initrd = File::open(contents.initrd)?;
    let initrd_length = initrd.metadata()?.len();
    let initrd_at = place_initrd(&setup, initrd_length, contents.memory_mib)?;
    if contents.command_line.len() >= COMMAND_LINE_MAX {
        bail!("the kernel's command line is too long");
    }

    put(&mut setup, header::TYPE_OF_LOADER, &[0xff]);
    setup[header::LOADFLAGS] |= header::CAN_USE_HEAP;
    put(
        &mut setup,
        header::CODE32_START,
        &loader::ENTRY32.to_le_bytes(),
    );
    put(&mut setup, header::RAMDISK_IMAGE, &initrd_at.to_le_bytes());
    let length = u32::try_from(initrd_length)?;
    put(&mut setup, header::RAMDISK_SIZE, &length.to_le_bytes());
    let heap_end = COMMAND_LINE_AT - loader::SETUP_AT - 0x200;
    put(
        &mut setup,
        header::HEAP_END_PTR,
        &(heap_end as u16).to_le_bytes(),
    );
    put(
        &mut setup,
        header::CMD_LINE_PTR,
        &COMMAND_LINE_AT.to_le_bytes(),
    );

    let mut disk = Disk::new(to)?;
    disk.piece(loader::SETUP_AT, &mut &setup[..])?;
    let command_line = [contents.command_line.as_bytes(), b"\0"].concat();
    disk.piece(COMMAND_LINE_AT, &mut &command_line[..])?;
    let mut vmlinux = File::open(contents.vmlinux)?;
    for segment in &segments {
        vmlinux.seek(SeekFrom::Start(segment.offset))?;
        let address = u32::try_from(segment.address)?;
        disk.piece(address, &mut (&mut vmlinux).take(segment.length))?;
    }
    disk.piece(initrd_at, &mut initrd)?;
    disk.finish(entry)
}

/// Where the initramfs goes: as high as it can, clear of the kernel.
fn place_initrd(setup: &[u8], length: u64, memory_mib: u32) -> Result<u32> {
    let preferred = u64_at(setup, header::PREF_ADDRESS).context("the kernel is too old")?;
    let needs = u32_at(setup, header::INIT_SIZE).context("the kernel is too old")?;
    let kernel_end = preferred + u64::from(needs);
    let end = (u64::from(memory_mib) << 20) - BIOS_TABLES;
    let at = end.checked_sub(length).map(|at| at & !0xfff);
    // It is there twice while the kernel unpacks it.
    match at.filter(|at| *at >= kernel_end + length) {
        Some(at) => Ok(u32::try_from(at)?),
        None => bail!(
            "an initramfs of {} MiB (programs, shared directory) is too much for {memory_mib} MiB of memory",
            length >> 20
        ),
    }
}

/// An image that is being written.
struct Disk {
    out: BufWriter<File>,
    /// The first free sector.
    next: u64,
    /// The loader's table.
    table: Vec<u8>,
}

impl Disk {
    fn new(to: &Path) -> Result<Self> {
        let mut out = BufWriter::new(File::create(to)?);
        out.write_all(&[0; loader::SIZE])?;
        Ok(Self {
            out,
            next: loader::SIZE as u64 / SECTOR,
            table: Vec::new(),
        })
    }

    /// Adds what is to be loaded to `address`.
    fn piece(&mut self, address: u32, content: &mut impl Read) -> Result<()> {
        let length = io::copy(content, &mut self.out)?;
        let sectors = length.div_ceil(SECTOR);
        let padding = sectors * SECTOR - length;
        self.out.write_all(&vec![0; usize::try_from(padding)?])?;
        for word in [address, u32::try_from(self.next)?, u32::try_from(sectors)?] {
            self.table.extend(word.to_le_bytes());
        }
        self.next += sectors;
        Ok(())
    }

    fn finish(self, entry: u64) -> Result<()> {
        let mut file = self
            .out
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.set_len((self.next * SECTOR).next_multiple_of(CYLINDER))?;
        let mut image = loader::bytes();
        put(&mut image, loader::ENTRY_AT, &entry.to_le_bytes());
        if loader::TABLE_AT + self.table.len() + 12 > image.len() {
            bail!("the kernel has too many parts");
        }
        put(&mut image, loader::TABLE_AT, &self.table);
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&image)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage of four setup sectors and a payload.
    fn bzimage() -> Vec<u8> {
        let mut image = vec![0; 5 * 512 + 64];
        put(&mut image, header::SETUP_SECTS, &[4]);
        put(&mut image, header::MAGIC, b"HdrS");
        put(&mut image, header::PAYLOAD_OFFSET, &16_u32.to_le_bytes());
        put(&mut image, header::PAYLOAD_LENGTH, &12_u32.to_le_bytes());
        put(
            &mut image,
            header::PREF_ADDRESS,
            &0x100_0000_u64.to_le_bytes(),
        );
        put(&mut image, header::INIT_SIZE, &0x300_0000_u32.to_le_bytes());
        put(&mut image, 5 * 512 + 16, b"payload!size");
        image
    }

    #[test]
    fn the_payload_is_found() {
        assert_eq!(payload(&bzimage()).unwrap(), b"payload!");
        assert!(payload(&bzimage()[..2000]).is_err());
        assert!(payload(&[0; 4096]).is_err());
    }

    #[test]
    fn segments_of_an_elf() {
        let mut elf = vec![0; 64 + 2 * 56];
        put(&mut elf, 0, b"\x7fELF\x02\x01");
        put(&mut elf, 24, &0x100_0040_u64.to_le_bytes());
        put(&mut elf, 32, &64_u64.to_le_bytes());
        put(&mut elf, 54, &56_u16.to_le_bytes());
        put(&mut elf, 56, &2_u16.to_le_bytes());
        // A note, which is not loaded, and a segment.
        put(&mut elf, 64, &4_u32.to_le_bytes());
        put(&mut elf, 64 + 32, &8_u64.to_le_bytes());
        let row = 64 + 56;
        put(&mut elf, row, &1_u32.to_le_bytes());
        put(&mut elf, row + 8, &0x1000_u64.to_le_bytes());
        put(&mut elf, row + 24, &0x100_0000_u64.to_le_bytes());
        put(&mut elf, row + 32, &0x2000_u64.to_le_bytes());
        let only = Segment {
            address: 0x100_0000,
            offset: 0x1000,
            length: 0x2000,
        };
        assert_eq!(segments(&elf), Some((vec![only], 0x100_0040)));
        assert_eq!(segments(&elf[..100]), None);
        assert_eq!(segments(&bzimage()), None);
    }

    #[test]
    fn the_initramfs_keeps_clear_of_the_kernel() {
        let image = bzimage();
        let setup = setup_code(&image).unwrap();
        let at = place_initrd(setup, 50 << 20, 512).unwrap();
        assert_eq!(at, (512 - 1 - 50) << 20);
        let error = place_initrd(setup, 200 << 20, 256).unwrap_err().to_string();
        assert!(
            error.contains("200 MiB") && error.contains("256 MiB"),
            "{error}"
        );
        assert!(place_initrd(setup, 100 << 20, 64).is_err());
    }

    #[test]
    fn a_disk_has_its_pieces_where_the_table_says() {
        let dir = std::env::temp_dir().join(format!("lab-disk-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("disk");
        let mut disk = Disk::new(&file).unwrap();
        disk.piece(0x9_0000, &mut &b"setup"[..]).unwrap();
        disk.piece(0x100_0000, &mut &[7_u8; 513][..]).unwrap();
        disk.finish(0x1234).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        std::fs::remove_dir_all(dir).unwrap();
        assert_eq!(bytes.len() as u64 % CYLINDER, 0);
        assert_eq!(u64_at(&bytes, loader::ENTRY_AT), Some(0x1234));
        let row = |at: usize| {
            let word =
                |index: usize| u32_at(&bytes, loader::TABLE_AT + 12 * at + 4 * index).unwrap();
            (word(0), word(1) as usize, word(2))
        };
        assert_eq!(row(0), (0x9_0000, 4, 1));
        assert_eq!(row(1), (0x100_0000, 5, 2));
        assert_eq!(row(2).2, 0);
        assert_eq!(&bytes[4 * 512..4 * 512 + 6], b"setup\0");
        assert_eq!(bytes[7 * 512 - 511..7 * 512 - 509], [0, 0]);
        assert_eq!(bytes[6 * 512], 7);
    }
}
