// SPDX-License-Identifier: GPL-2.0-or-later

//! What was asked for, checked and opened: everything that can be said about bad input is said
//! here, before a virtual machine exists.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::{bail, Context, Result};

use crate::boot::layout::{port, PAGE_SIZE};
use crate::boot::{Initrd, Kernel};
use crate::cli::{ConsoleArg, DiskArg, RunArgs};
use crate::devices::virtio::blk::SECTOR_SIZE;
use crate::kvm::MODEL_MAX_VCPUS;
use crate::size::{ByteSize, KIB, MIB};

/// Less than this no kernel boots in.
const LEAST_MEMORY: ByteSize = ByteSize(16 * MIB);

/// How many disks fit: as many as slots on the PCI bus, less those of the other devices.
const MOST_DISKS: usize = 24;

/// How many serial ports the machine has.
pub const SERIAL_PORTS: usize = 2;

/// A checked request for a run.
pub struct Config {
    pub kernel: Kernel,
    pub initrd: Option<Initrd>,
    pub append: String,
    pub cpus: u32,
    pub memory: ByteSize,
    pub hugepages: bool,
    pub disks: Vec<Disk>,
    pub consoles: [ConsoleArg; SERIAL_PORTS],
    pub no_reboot: bool,
    pub exit_port: Option<u16>,
}

/// A disk image, open and locked.
pub struct Disk {
    pub file: File,
    pub sectors: u64,
    pub read_only: bool,
    pub name: String,
}

impl Config {
    /// Checks `args` and opens what they name.
    ///
    /// # Errors
    ///
    /// One sentence that says what is wrong and what to do.
    pub fn new(args: &RunArgs) -> Result<Self> {
        if args.cpus == 0 || args.cpus > MODEL_MAX_VCPUS {
            bail!(
                "--cpus {}: a guest has 1 to {MODEL_MAX_VCPUS} vCPUs",
                args.cpus
            );
        }
        if args.memory < LEAST_MEMORY {
            bail!(
                "--memory {}: a guest needs at least {LEAST_MEMORY}",
                args.memory
            );
        }
        if args.memory.0 % PAGE_SIZE != 0 {
            bail!(
                "--memory {}K: memory comes in pages of {}K; ask for a multiple of that",
                args.memory.0 / KIB,
                PAGE_SIZE / KIB
            );
        }
        if args.hugepages && huge_pages_off() {
            bail!("--hugepages: this host does not give any; let it with `echo madvise | sudo tee {HUGE_PAGES}`");
        }
        if let Some(port) = args.exit_port.filter(|port| !port::is_free(*port)) {
            bail!("--exit-port={port:#x}: another device is at this port; choose one such as 0xf4");
        }
        if args.append.contains('\0') {
            bail!("--append: a kernel command line cannot contain a NUL character");
        }
        if args.disks.len() > MOST_DISKS {
            bail!("--disk: a guest has room for {MOST_DISKS} disks");
        }
        let kernel = open_kernel(&args.kernel)?;
        let initrd = args.initrd.as_deref().map(open_initrd).transpose()?;
        kernel
            .check_fit(
                args.memory,
                initrd.as_ref().map_or(0, |initrd| initrd.size),
                &args.append,
            )
            .with_context(|| format!("--kernel {}", args.kernel.display()))?;
        Ok(Self {
            kernel,
            initrd,
            append: args.append.clone(),
            cpus: args.cpus,
            memory: args.memory,
            hugepages: args.hugepages,
            disks: args.disks.iter().map(open_disk).collect::<Result<_>>()?,
            consoles: consoles(&args.consoles)?,
            no_reboot: args.no_reboot,
            exit_port: args.exit_port,
        })
    }
}

/// Where the host says whether it gives transparent huge pages.
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Whether asking for huge pages is in vain.
pub fn huge_pages_off() -> bool {
    std::fs::read_to_string(HUGE_PAGES).map_or(true, |modes| modes.contains("[never]"))
}

/// Opens a regular file for reading; `option` names it in the error.
fn open_to_read(option: &str, path: &Path) -> Result<File> {
    let cannot = || format!("{option} {}: cannot open it for reading", path.display());
    // Asked before the file is opened: opening a pipe would wait for its other end.
    let kind = std::fs::metadata(path).with_context(cannot)?.file_type();
    if kind.is_dir() {
        bail!(
            "{option} {}: this is a directory; name a file",
            path.display()
        );
    }
    if !kind.is_file() {
        bail!("{option} {}: this is not a regular file", path.display());
    }
    File::open(path).with_context(cannot)
}

fn open_kernel(path: &Path) -> Result<Kernel> {
    let file = open_to_read("--kernel", path)?;
    Kernel::recognize(file).with_context(|| format!("--kernel {}", path.display()))
}

fn open_initrd(path: &Path) -> Result<Initrd> {
    let file = open_to_read("--initrd", path)?;
    let size = file
        .metadata()
        .with_context(|| format!("--initrd {}", path.display()))?
        .len();
    if size == 0 {
        bail!("--initrd {}: the file is empty", path.display());
    }
    Ok(Initrd { file, size })
}

fn open_disk(disk: &DiskArg) -> Result<Disk> {
    let path = disk.path.display();
    let metadata = std::fs::metadata(&disk.path).with_context(|| {
        format!("--disk {path}: cannot use it (`truncate -s 4G {path}` makes an empty disk)")
    })?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        bail!("--disk {path}: this is a directory; name a raw disk image or a block device");
    }
    if !kind.is_file() && !kind.is_block_device() {
        bail!("--disk {path}: this is neither a file nor a block device");
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(!disk.read_only)
        .open(&disk.path)
        .with_context(|| {
            if disk.read_only {
                format!("--disk {path}: cannot open it for reading")
            } else {
                format!("--disk {path}: cannot open it for writing; add `,ro` if the guest need not write")
            }
        })?;
    lock_disk(&file, disk)?;
    let size = file
        .seek(SeekFrom::End(0))
        .with_context(|| format!("--disk {path}: cannot find out its size"))?;
    if size == 0 || size % SECTOR_SIZE != 0 {
        bail!("--disk {path}: its size of {size} bytes is not a positive multiple of {SECTOR_SIZE}; make it one with `truncate -s %{SECTOR_SIZE}`");
    }
    refuse_foreign_format(&mut file, disk)?;
    Ok(Disk {
        sectors: size / SECTOR_SIZE,
        read_only: disk.read_only,
        name: disk
            .path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        file,
    })
}

/// Keeps two guests from writing one disk: a lock on the open file, shared for readers. It goes
/// when the process does, and QEMU's image locks respect it.
fn lock_disk(file: &File, disk: &DiskArg) -> Result<()> {
    let path = disk.path.display();
    let kind = if disk.read_only {
        libc::F_RDLCK
    } else {
        libc::F_WRLCK
    };
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match nix::fcntl::fcntl(file.as_fd(), nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)) {
        Ok(_) => Ok(()),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => bail!(
            "--disk {path}: another guest is using this disk, or it was named twice; stop that guest, or use a copy{}",
            if disk.read_only {
                ""
            } else {
                ", or add `,ro` here and there"
            }
        ),
        Err(error) => Err(error).with_context(|| format!("--disk {path}: cannot lock it")),
    }
}

/// A qcow2 file given to a guest as a raw disk would be garbage to it, and be destroyed by it.
fn refuse_foreign_format(file: &mut File, disk: &DiskArg) -> Result<()> {
    let path = disk.path.display();
    let mut magic = [0; 4];
    file.rewind()
        .and_then(|()| file.read_exact(&mut magic))
        .with_context(|| format!("--disk {path}: cannot read it"))?;
    if magic == *b"QFI\xfb" {
        bail!("--disk {path}: this is a qcow2 image and ironvm takes raw ones; `qemu-img convert -O raw` makes one of it");
    }
    Ok(())
}

/// Which serial port goes where: the first to stdio unless told otherwise.
fn consoles(given: &[ConsoleArg]) -> Result<[ConsoleArg; SERIAL_PORTS]> {
    if given.len() > SERIAL_PORTS {
        bail!("--console: the guest has {SERIAL_PORTS} serial ports");
    }
    if given
        .iter()
        .filter(|console| **console == ConsoleArg::Stdio)
        .count()
        > 1
    {
        bail!("--console: only one serial port can be on stdio");
    }
    let first = given.first().cloned().unwrap_or(ConsoleArg::Stdio);
    let second = given.get(1).cloned().unwrap_or(ConsoleArg::None);
    Ok([first, second])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A directory that goes when the test ends.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("ironvm-test-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn disk(&self, name: &str, content: &[u8], read_only: bool) -> DiskArg {
            let path = self.0.join(name);
            std::fs::write(&path, content).unwrap();
            DiskArg { path, read_only }
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn refusal<T>(result: Result<T>) -> String {
        match result {
            Ok(_) => panic!("not refused"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn disks_are_sized_in_sectors() {
        let place = Place::new("size");
        let disk = open_disk(&place.disk("a", &[0; 1024], false)).unwrap();
        assert_eq!(
            (disk.sectors, disk.read_only, disk.name.as_str()),
            (2, false, "a")
        );
        for size in [0, 511, 1025] {
            let refused = refusal(open_disk(&place.disk("b", &vec![0; size], false)));
            assert!(refused.contains("truncate"), "{refused}");
        }
    }

    #[test]
    fn a_disk_has_one_writer_or_many_readers() {
        let place = Place::new("lock");
        let writer = place.disk("a", &[0; 512], false);
        let reader = DiskArg {
            read_only: true,
            ..writer.clone()
        };
        {
            let _held = open_disk(&writer).unwrap();
            assert!(refusal(open_disk(&writer)).contains("another guest"));
            assert!(refusal(open_disk(&reader)).contains("another guest"));
        }
        let _first = open_disk(&reader).unwrap();
        let _second = open_disk(&reader).unwrap();
        assert!(refusal(open_disk(&writer)).contains("another guest"));
    }

    #[test]
    fn what_is_no_raw_disk_is_refused() {
        let place = Place::new("foreign");
        let mut image = vec![0; 1024];
        image[..4].copy_from_slice(b"QFI\xfb");
        assert!(refusal(open_disk(&place.disk("q", &image, false))).contains("qemu-img"));
        let directory = DiskArg {
            path: place.0.clone(),
            read_only: true,
        };
        assert!(refusal(open_disk(&directory)).contains("directory"));
        let absent = DiskArg {
            path: place.0.join("none"),
            read_only: false,
        };
        assert!(refusal(open_disk(&absent)).contains("truncate"));
        let device = DiskArg {
            path: "/dev/null".into(),
            read_only: true,
        };
        assert!(refusal(open_disk(&device)).contains("neither"));
    }

    #[test]
    fn files_to_read_are_regular_and_there() {
        let place = Place::new("read");
        assert!(refusal(open_to_read("--kernel", &place.0)).contains("directory"));
        assert!(refusal(open_to_read("--kernel", &place.0.join("none"))).contains("--kernel"));
        assert!(refusal(open_to_read("--initrd", Path::new("/dev/null"))).contains("regular"));
        let empty = place.disk("empty", b"", true).path;
        assert!(refusal(open_initrd(&empty)).contains("empty"));
    }

    #[test]
    fn serial_ports_default_to_one_on_stdio() {
        use ConsoleArg::{None, Stdio};
        assert_eq!(consoles(&[]).unwrap(), [Stdio, None]);
        assert_eq!(consoles(&[None]).unwrap(), [None, None]);
        assert_eq!(consoles(&[None, Stdio]).unwrap(), [None, Stdio]);
        assert!(consoles(&[Stdio, Stdio]).is_err());
        assert!(consoles(&[None, None, None]).is_err());
    }

    #[test]
    fn exit_port_must_be_free() {
        assert!(port::is_free(0xf4) && port::is_free(0x501));
        let taken = [
            0x20, 0x43, 0x61, 0x64, 0x71, 0x2f8, 0x3ff, 0x505, 0x60b, 0xcf8, 0xcf9, 0xcff,
        ];
        for port in taken {
            assert!(!port::is_free(port), "{port:#x}");
        }
    }
}
