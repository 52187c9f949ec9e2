// SPDX-License-Identifier: GPL-2.0-or-later

//! The block device (virtio 1.2, 5.2) on a raw image or host block device.
//!
//! The cache the guest is told about is the host's page cache: data is safe after a flush, or at
//! once when the guest chose write-through. A driver that cannot flush gets write-through.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use virtio_bindings::bindings::virtio_blk as spec;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::GuestMemoryMmap;

use super::buffers::{Buffers, Malformed, Request};
use super::{read_fields, VirtioDevice, QUEUE_SIZE};

/// The unit of the device's addresses, in bytes.
pub const SECTOR_SIZE: u64 = 512;

/// Type, priority and sector of a request.
const HEADER_SIZE: usize = 16;
/// Pieces of data in a request: what a queue holds, less header and status.
const SEGMENTS_MAX: u32 = QUEUE_SIZE as u32 - 2;
const ID_SIZE: usize = spec::VIRTIO_BLK_ID_BYTES as usize;
/// Sectors that one discard or write-zeroes request may name.
const RANGE_SECTORS_MAX: u32 = 1 << 22;
/// A range to discard or zero: sector, count of sectors, flags.
const RANGE_SIZE: usize = 16;
const RANGE_UNMAP: u32 = 1 << 0;

/// Configuration space (5.2.4).
const CONFIG_SIZE: usize = 60;
const CONFIG_WRITEBACK: usize = 32;

/// A block device.
pub struct Block {
    file: File,
    sectors: u64,
    read_only: bool,
    id: [u8; ID_SIZE],
    /// The guest flushes when it needs data to be safe; otherwise each write is made safe.
    writeback: bool,
    /// Features the driver chose.
    features: u64,
}

/// Why a request failed; each is a status the guest sees.
#[derive(Debug)]
enum Failure {
    Io,
    Unsupported,
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        Self::Io
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Self::Unsupported,
            _ => Self::Io,
        }
    }
}

impl Block {
    /// A device of `sectors` sectors that lie in `file`; the guest sees `name` as serial number.
    pub fn new(file: File, sectors: u64, read_only: bool, name: &str) -> Self {
        let mut id = [0; ID_SIZE];
        for (byte, value) in id.iter_mut().zip(name.bytes().filter(u8::is_ascii_graphic)) {
            *byte = value;
        }
        Self {
            file,
            sectors,
            read_only,
            id,
            writeback: true,
            features: 0,
        }
    }

    fn chosen(&self, feature: u32) -> bool {
        self.features & 1 << feature != 0
    }

    /// Where `length` bytes at `sector` lie in the file, if they are on the disk.
    fn locate(&self, sector: u64, length: u64) -> Result<u64, Failure> {
        let sectors = length / SECTOR_SIZE;
        let fits = length % SECTOR_SIZE == 0
            && sector
                .checked_add(sectors)
                .is_some_and(|end| end <= self.sectors);
        if fits {
            Ok(sector * SECTOR_SIZE)
        } else {
            Err(Failure::Io)
        }
    }

    fn sync(&self) -> Result<(), Failure> {
        Ok(self.file.sync_data()?)
    }

    /// Makes a write safe, unless the guest does that itself.
    fn written(&self) -> Result<(), Failure> {
        if self.writeback {
            Ok(())
        } else {
            self.sync()
        }
    }

    /// Does what a request asks; returns how many bytes it put into `writable`.
    fn execute(
        &mut self,
        mut readable: Buffers<'_>,
        mut writable: Buffers<'_>,
    ) -> Result<u32, Failure> {
        let mut header = [0; HEADER_SIZE];
        readable.read_exact(&mut header)?;
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let (kind, sector) = (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(sector));
        match kind {
            spec::VIRTIO_BLK_T_IN => {
                let length = writable.len();
                let offset = self.locate(sector, length)?;
                writable.fill_from(&self.file, offset)?;
                u32::try_from(length).map_err(|_| Failure::Io)
            }
            spec::VIRTIO_BLK_T_OUT if self.read_only => Err(Failure::Io),
            spec::VIRTIO_BLK_T_OUT => {
                let offset = self.locate(sector, readable.len())?;
                readable.drain_to(&self.file, offset)?;
                self.written().map(|()| 0)
            }
            spec::VIRTIO_BLK_T_FLUSH => self.sync().map(|()| 0),
            spec::VIRTIO_BLK_T_GET_ID => Ok(writable.write(&self.id)),
            spec::VIRTIO_BLK_T_DISCARD | spec::VIRTIO_BLK_T_WRITE_ZEROES => {
                self.clear(kind, readable).map(|()| 0)
            }
            _ => Err(Failure::Unsupported),
        }
    }

    /// Discards or zeroes ranges of sectors.
    fn clear(&self, kind: u32, mut ranges: Buffers<'_>) -> Result<(), Failure> {
        if self.read_only {
            return Err(Failure::Io);
        }
        if ranges.len() != RANGE_SIZE as u64 {
            // We said that a request names one range.
            return Err(Failure::Unsupported);
        }
        let mut range = [0; RANGE_SIZE];
        ranges.read_exact(&mut range)?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, flags @ ..] = range;
        let sector = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let count = u32::from_le_bytes([i, j, k, l]);
        let flags = u32::from_le_bytes(flags);
        if flags & !RANGE_UNMAP != 0 || count > RANGE_SECTORS_MAX {
            return Err(Failure::Unsupported);
        }
        let length = u64::from(count) * SECTOR_SIZE;
        let offset = self.locate(sector, length)?;
        if length == 0 {
            return Ok(());
        }
        // Both leave zeroes behind; a hole is what both may become if the guest allows it.
        let may_unmap = kind == spec::VIRTIO_BLK_T_DISCARD || flags & RANGE_UNMAP != 0;
        let mode = if may_unmap {
            libc::FALLOC_FL_PUNCH_HOLE
        } else {
            libc::FALLOC_FL_ZERO_RANGE
        };
        self.fallocate(mode | libc::FALLOC_FL_KEEP_SIZE, offset, length)?;
        self.written()
    }

    fn fallocate(&self, mode: libc::c_int, offset: u64, length: u64) -> io::Result<()> {
        let out_of_range = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let offset = libc::off_t::try_from(offset).map_err(out_of_range)?;
        let length = libc::off_t::try_from(length).map_err(out_of_range)?;
        // SAFETY: touches the file only.
        match unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, length) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn config(&self) -> [u8; CONFIG_SIZE] {
        let mut config = [0; CONFIG_SIZE];
        let mut put = |offset: usize, bytes: &[u8]| {
            for (byte, value) in config.iter_mut().skip(offset).zip(bytes) {
                *byte = *value;
            }
        };
        put(0, &self.sectors.to_le_bytes());
        put(12, &SEGMENTS_MAX.to_le_bytes());
        put(20, &(SECTOR_SIZE as u32).to_le_bytes());
        put(CONFIG_WRITEBACK, &[u8::from(self.writeback)]);
        put(36, &RANGE_SECTORS_MAX.to_le_bytes());
        put(40, &1u32.to_le_bytes());
        put(44, &1u32.to_le_bytes());
        put(48, &RANGE_SECTORS_MAX.to_le_bytes());
        put(52, &1u32.to_le_bytes());
        put(56, &[1]);
        config
    }
}

impl VirtioDevice for Block {
    fn id(&self) -> u16 {
        VIRTIO_ID_BLOCK as u16
    }

    fn pci_class(&self) -> [u8; 3] {
        [0x01, 0x80, 0x00]
    }

    fn queues(&self) -> usize {
        1
    }

    fn features(&self) -> u64 {
        let always = 1 << spec::VIRTIO_BLK_F_SEG_MAX
            | 1 << spec::VIRTIO_BLK_F_BLK_SIZE
            | 1 << spec::VIRTIO_BLK_F_FLUSH
            | 1 << spec::VIRTIO_BLK_F_CONFIG_WCE;
        let access = if self.read_only {
            1 << spec::VIRTIO_BLK_F_RO
        } else {
            1 << spec::VIRTIO_BLK_F_DISCARD | 1 << spec::VIRTIO_BLK_F_WRITE_ZEROES
        };
        always | access
    }

    fn activate(&mut self, features: u64) {
        self.features = features;
        // A driver that does not know how to flush must not need to.
        if !self.chosen(spec::VIRTIO_BLK_F_FLUSH) {
            self.writeback = false;
        } else if !self.chosen(spec::VIRTIO_BLK_F_CONFIG_WCE) {
            self.writeback = true;
        }
    }

    fn config_read(&self, offset: usize, data: &mut [u8]) {
        read_fields(&self.config(), offset, data);
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        if let (CONFIG_WRITEBACK, [value]) = (offset, data) {
            self.writeback = *value != 0;
        }
    }

    fn serve(&mut self, _queue: usize, request: Request<'_>, _memory: &GuestMemoryMmap) -> u32 {
        let Request {
            readable,
            mut writable,
        } = request;
        // Without room for the status there is nobody to tell.
        let Ok(mut status) = writable.take_back(1) else {
            return 0;
        };
        let (code, written) = match self.execute(readable, writable) {
            Ok(written) => (spec::VIRTIO_BLK_S_OK, written),
            Err(Failure::Io) => (spec::VIRTIO_BLK_S_IOERR, 0),
            Err(Failure::Unsupported) => (spec::VIRTIO_BLK_S_UNSUPP, 0),
        };
        written.saturating_add(status.write(&[code as u8]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::buffers::tests::{buffers, file, memory};
    use super::*;
    use std::os::unix::fs::FileExt;
    use vm_memory::{Bytes, GuestAddress};

    const HEADER: u64 = 0x100;
    const DATA: u64 = 0x1000;
    const STATUS: u64 = 0x200;
    const OK: u8 = spec::VIRTIO_BLK_S_OK as u8;
    const IOERR: u8 = spec::VIRTIO_BLK_S_IOERR as u8;
    const UNSUPP: u8 = spec::VIRTIO_BLK_S_UNSUPP as u8;

    struct Bench {
        memory: GuestMemoryMmap,
        block: Block,
    }

    impl Bench {
        /// A disk of eight sectors, each filled with its number.
        fn new(read_only: bool) -> Self {
            let content: Vec<u8> = (0..8u8).flat_map(|sector| [sector; 512]).collect();
            Self {
                memory: memory(),
                block: Block::new(file(&content), 8, read_only, "my disk.img"),
            }
        }

        /// Sends a request with `out` bytes for and `length` bytes from the device at [`DATA`];
        /// returns status and length written.
        fn request(&mut self, kind: u32, sector: u64, out: u32, length: u32) -> (u8, u32) {
            let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
            self.memory
                .write_slice(&header, GuestAddress(HEADER))
                .unwrap();
            self.memory.write_obj(0xffu8, GuestAddress(STATUS)).unwrap();
            let request = Request {
                readable: buffers(&self.memory, &[(HEADER, 16), (DATA, out)]),
                writable: buffers(&self.memory, &[(DATA, length), (STATUS, 1)]),
            };
            let written = self.block.serve(0, request, &self.memory);
            (self.memory.read_obj(GuestAddress(STATUS)).unwrap(), written)
        }

        fn disk(&self, sector: u64) -> u8 {
            let mut byte = [0];
            self.block
                .file
                .read_exact_at(&mut byte, sector * SECTOR_SIZE)
                .unwrap();
            byte[0]
        }
    }

    #[test]
    fn read() {
        let mut bench = Bench::new(true);
        assert_eq!(bench.request(spec::VIRTIO_BLK_T_IN, 3, 0, 1024), (OK, 1025));
        let bytes: [u8; 2] = [
            bench.memory.read_obj(GuestAddress(DATA)).unwrap(),
            bench.memory.read_obj(GuestAddress(DATA + 1023)).unwrap(),
        ];
        assert_eq!(bytes, [3, 4]);
    }

    #[test]
    fn write() {
        let mut bench = Bench::new(false);
        bench
            .memory
            .write_slice(&[0xaa; 512], GuestAddress(DATA))
            .unwrap();
        assert_eq!(bench.request(spec::VIRTIO_BLK_T_OUT, 7, 512, 0), (OK, 1));
        assert_eq!((bench.disk(7), bench.disk(6)), (0xaa, 6));
    }

    #[test]
    fn the_disk_has_an_end() {
        let mut bench = Bench::new(false);
        for (sector, length) in [
            (8, 512),
            (7, 1024),
            (u64::MAX, 512),
            (u64::MAX / 512, 512),
            (0, 511),
            (0, 513),
        ] {
            assert_eq!(
                bench.request(spec::VIRTIO_BLK_T_IN, sector, 0, length).0,
                IOERR,
                "read {sector}+{length}"
            );
            assert_eq!(
                bench.request(spec::VIRTIO_BLK_T_OUT, sector, length, 0).0,
                IOERR,
                "write {sector}+{length}"
            );
        }
        let mut end = [0];
        assert_eq!(
            bench.block.file.read_at(&mut end, 8 * SECTOR_SIZE).unwrap(),
            0,
            "the file did not grow"
        );
    }

    #[test]
    fn read_only_disks_stay_as_they_are() {
        let mut bench = Bench::new(true);
        assert_eq!(
            bench.block.features() & 1 << spec::VIRTIO_BLK_F_RO,
            1 << spec::VIRTIO_BLK_F_RO
        );
        assert_eq!(bench.request(spec::VIRTIO_BLK_T_OUT, 1, 512, 0), (IOERR, 1));
        bench
            .memory
            .write_slice(&[0; 16], GuestAddress(DATA))
            .unwrap();
        assert_eq!(bench.request(spec::VIRTIO_BLK_T_DISCARD, 0, 16, 0).0, IOERR);
        assert_eq!(bench.disk(1), 1);
        assert_eq!(bench.request(spec::VIRTIO_BLK_T_FLUSH, 0, 0, 0), (OK, 1));
    }

    #[test]
    fn ranges_are_zeroed() {
        for kind in [spec::VIRTIO_BLK_T_DISCARD, spec::VIRTIO_BLK_T_WRITE_ZEROES] {
            let mut bench = Bench::new(false);
            let range = |sector: u64, count: u32, flags: u32| {
                [
                    &sector.to_le_bytes()[..],
                    &count.to_le_bytes(),
                    &flags.to_le_bytes(),
                ]
                .concat()
            };
            let mut send = |range: Vec<u8>| {
                bench
                    .memory
                    .write_slice(&range, GuestAddress(DATA))
                    .unwrap();
                bench.request(kind, 0, range.len() as u32, 0).0
            };
            assert_eq!(send(range(2, 3, RANGE_UNMAP)), OK);
            assert_eq!(send(range(7, 2, RANGE_UNMAP)), IOERR, "past the end");
            assert_eq!(send(range(0, 1, 4)), UNSUPP, "unknown flag");
            assert_eq!(send(range(0, u32::MAX, 0)), UNSUPP, "more than we said");
            assert_eq!(send(vec![0; 32]), UNSUPP, "two ranges");
            let bytes: Vec<u8> = (0..8).map(|sector| bench.disk(sector)).collect();
            assert_eq!(bytes, [0, 1, 0, 0, 0, 5, 6, 7]);
        }
    }

    #[test]
    fn identity() {
        let mut bench = Bench::new(false);
        assert_eq!(bench.request(spec::VIRTIO_BLK_T_GET_ID, 0, 0, 20), (OK, 21));
        let mut id = [0; 20];
        bench
            .memory
            .read_slice(&mut id, GuestAddress(DATA))
            .unwrap();
        assert_eq!(&id, b"mydisk.img\0\0\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn nonsense_is_answered() {
        let mut bench = Bench::new(false);
        assert_eq!(bench.request(0x1234, 0, 0, 0), (UNSUPP, 1));
        let short_header = Request {
            readable: buffers(&bench.memory, &[(HEADER, 15)]),
            writable: buffers(&bench.memory, &[(STATUS, 1)]),
        };
        assert_eq!(bench.block.serve(0, short_header, &bench.memory), 1);
        assert_eq!(
            bench.memory.read_obj::<u8>(GuestAddress(STATUS)).unwrap(),
            IOERR
        );
        let no_status = Request {
            readable: buffers(&bench.memory, &[(HEADER, 16)]),
            writable: Buffers::default(),
        };
        assert_eq!(bench.block.serve(0, no_status, &bench.memory), 0);
    }

    #[test]
    fn cache_mode_follows_the_driver() {
        let flush = 1 << spec::VIRTIO_BLK_F_FLUSH;
        let switch = 1 << spec::VIRTIO_BLK_F_CONFIG_WCE;
        let mut bench = Bench::new(false);
        bench.block.activate(0);
        assert!(!bench.block.writeback, "a driver that cannot flush");
        bench.block.activate(flush);
        assert!(bench.block.writeback);
        bench.block.config_write(CONFIG_WRITEBACK, &[0]);
        bench.block.activate(flush | switch);
        let mut mode = [9];
        bench.block.config_read(CONFIG_WRITEBACK, &mut mode);
        assert_eq!(mode, [0], "the driver chose write-through");
    }

    #[test]
    fn capacity_is_told() {
        let bench = Bench::new(false);
        let mut capacity = [0; 8];
        bench.block.config_read(0, &mut capacity);
        assert_eq!(u64::from_le_bytes(capacity), 8);
        let mut past = [0xff; 4];
        bench.block.config_read(CONFIG_SIZE, &mut past);
        assert_eq!(past, [0xff; 4]);
    }
}
