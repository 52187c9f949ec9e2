// SPDX-License-Identifier: GPL-2.0-or-later

//! The memory a request brings: what the device reads, and what it writes.
//!
//! A driver may cut a request into descriptors as it likes (virtio 1.2, 2.7.4), so devices see
//! two streams of bytes, which they take apart from the front and the back.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemory, GuestMemoryMmap, VolatileSlice};

/// The buffers of one request.
pub struct Request<'a> {
    pub readable: Buffers<'a>,
    pub writable: Buffers<'a>,
}

/// Pieces of guest memory that follow each other.
#[derive(Default)]
pub struct Buffers<'a> {
    pieces: VecDeque<VolatileSlice<'a>>,
}

/// What makes a request unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl<'a> Request<'a> {
    /// Collects the buffers of `chain`.
    ///
    /// # Errors
    ///
    /// When a buffer is not in guest memory, or one to read follows one to write.
    pub fn new(
        memory: &'a GuestMemoryMmap,
        chain: DescriptorChain<&GuestMemoryMmap>,
    ) -> Result<Self, Malformed> {
        let (mut readable, mut writable) = (Buffers::default(), Buffers::default());
        for descriptor in chain {
            let into = if descriptor.is_write_only() {
                &mut writable
            } else if writable.pieces.is_empty() {
                &mut readable
            } else {
                return Err(Malformed);
            };
            into.append(memory, descriptor.addr(), descriptor.len())?;
        }
        Ok(Self { readable, writable })
    }
}

impl<'a> Buffers<'a> {
    fn append(
        &mut self,
        memory: &'a GuestMemoryMmap,
        address: vm_memory::GuestAddress,
        length: u32,
    ) -> Result<(), Malformed> {
        if length == 0 {
            return Ok(());
        }
        // Memory regions that touch are one to the guest, so a buffer may span them.
        for slice in memory.get_slices(address, length as usize) {
            self.pieces.push_back(slice.map_err(|_| Malformed)?);
        }
        Ok(())
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// Takes the first `count` bytes away, as buffers of their own.
    ///
    /// # Errors
    ///
    /// When there are fewer; nothing is taken then.
    pub fn take_front(&mut self, count: u64) -> Result<Self, Malformed> {
        if self.len() < count {
            return Err(Malformed);
        }
        let mut taken = Self::default();
        let mut left = usize::try_from(count).map_err(|_| Malformed)?;
        while left > 0 {
            let piece = self.pieces.pop_front().ok_or(Malformed)?;
            if piece.len() <= left {
                left -= piece.len();
                taken.pieces.push_back(piece);
                continue;
            }
            let (front, back) = piece.split_at(left).map_err(|_| Malformed)?;
            taken.pieces.push_back(front);
            self.pieces.push_front(back);
            left = 0;
        }
        Ok(taken)
    }

    /// Takes the last `count` bytes away.
    ///
    /// # Errors
    ///
    /// As for [`Self::take_front`].
    pub fn take_back(&mut self, count: u64) -> Result<Self, Malformed> {
        let keep = self.len().checked_sub(count).ok_or(Malformed)?;
        let front = self.take_front(keep)?;
        Ok(std::mem::replace(self, front))
    }

    /// Takes bytes from the front and copies them into `data`.
    ///
    /// # Errors
    ///
    /// When there are too few.
    pub fn read_exact(&mut self, data: &mut [u8]) -> Result<(), Malformed> {
        let taken = self.take_front(data.len() as u64)?;
        let mut data = data;
        for piece in taken.pieces {
            let (part, rest) = data.split_at_mut(piece.len().min(data.len()));
            piece.copy_to(part);
            data = rest;
        }
        Ok(())
    }

    /// Takes room for `data` from the front, as much as there is, and copies it there. Returns
    /// how many bytes were.
    pub fn write(&mut self, data: &[u8]) -> u32 {
        let count = self.len().min(data.len() as u64);
        let Ok(taken) = self.take_front(count) else {
            return 0;
        };
        let mut data = data;
        for piece in taken.pieces {
            let (part, rest) = data.split_at(piece.len().min(data.len()));
            piece.copy_from(part);
            data = rest;
        }
        count as u32
    }

    /// Fills the buffers with what lies at `offset` in `file`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or ends before.
    pub fn fill_from(self, file: &File, offset: u64) -> io::Result<()> {
        self.transfer(offset, |iov, count, offset| {
            // SAFETY: the vector describes guest memory that `self` keeps mapped, in which any
            // bytes are valid.
            unsafe { libc::preadv(file.as_raw_fd(), iov, count, offset) }
        })
    }

    /// Writes the buffers to `offset` in `file`.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn drain_to(self, file: &File, offset: u64) -> io::Result<()> {
        self.transfer(offset, |iov, count, offset| {
            // SAFETY: as above; memory is only read.
            unsafe { libc::pwritev(file.as_raw_fd(), iov, count, offset) }
        })
    }

    /// Moves all bytes by `step`, which moves some and says how many.
    fn transfer(
        mut self,
        mut offset: u64,
        step: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
    ) -> io::Result<()> {
        /// As many pieces as the kernel takes at once.
        const PIECES_MAX: usize = 1024;
        while !self.pieces.is_empty() {
            let guards: Vec<_> = self
                .pieces
                .iter()
                .take(PIECES_MAX)
                .map(|piece| (piece.ptr_guard_mut(), piece.len()))
                .collect();
            let vector: Vec<_> = guards
                .iter()
                .map(|(guard, length)| libc::iovec {
                    iov_base: guard.as_ptr().cast(),
                    iov_len: *length,
                })
                .collect();
            let at = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            let moved = step(vector.as_ptr(), vector.len() as libc::c_int, at);
            drop(guards);
            let moved = match moved {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                moved @ 1.. => moved as u64,
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() == io::ErrorKind::Interrupted {
                        continue;
                    }
                    return Err(error);
                }
            };
            offset = offset.saturating_add(moved);
            // The kernel moves no more than it was given.
            self.take_front(moved)
                .map_err(|_| io::ErrorKind::InvalidData)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::os::fd::FromRawFd;
    use vm_memory::{Bytes, GuestAddress};

    pub fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[
            (GuestAddress(0), 0x1_0000),
            (GuestAddress(0x1_0000), 0x1_0000),
        ])
        .unwrap()
    }

    /// Buffers at (address, length).
    pub fn buffers<'a>(memory: &'a GuestMemoryMmap, places: &[(u64, u32)]) -> Buffers<'a> {
        let mut buffers = Buffers::default();
        for (address, length) in places {
            buffers
                .append(memory, GuestAddress(*address), *length)
                .unwrap();
        }
        buffers
    }

    /// A file in memory with this content.
    pub fn file(content: &[u8]) -> File {
        use std::io::Write;
        // SAFETY: makes a file descriptor that only this `File` owns.
        let mut file = unsafe { File::from_raw_fd(libc::memfd_create(c"test".as_ptr(), 0)) };
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn bytes_are_taken_across_pieces() {
        let memory = memory();
        memory.write_slice(b"abcdef", GuestAddress(0x100)).unwrap();
        memory.write_slice(b"ghij", GuestAddress(0x300)).unwrap();
        let mut all = buffers(&memory, &[(0x100, 6), (0x200, 0), (0x300, 4)]);
        assert_eq!(all.len(), 10);
        let mut tail = all.take_back(3).unwrap();
        let (mut front, mut back) = ([0; 7], [0; 3]);
        all.read_exact(&mut front).unwrap();
        tail.read_exact(&mut back).unwrap();
        assert_eq!((&front, &back), (b"abcdefg", b"hij"));
        assert_eq!(all.len(), 0);
        assert!(all.read_exact(&mut [0]).is_err());
        assert!(all.take_back(1).is_err());
    }

    #[test]
    fn a_buffer_may_span_two_regions_but_not_leave_memory() {
        let memory = memory();
        let mut spanning = buffers(&memory, &[(0xfffe, 4)]);
        assert_eq!(spanning.write(b"wxyz"), 4);
        let mut bytes = [0; 4];
        memory.read_slice(&mut bytes, GuestAddress(0xfffe)).unwrap();
        assert_eq!(&bytes, b"wxyz");
        for (address, length) in [
            (0x1_ffff, 2),
            (0x2_0000, 1),
            (u64::MAX, 1),
            (u64::MAX, 2),
            (0, u32::MAX),
        ] {
            assert!(
                Buffers::default()
                    .append(&memory, GuestAddress(address), length)
                    .is_err(),
                "{address:#x}"
            );
        }
    }

    #[test]
    fn writes_stop_at_the_end() {
        let memory = memory();
        let mut small = buffers(&memory, &[(0x10, 2)]);
        assert_eq!(small.write(b"abc"), 2);
        assert_eq!(small.write(b"d"), 0);
    }

    #[test]
    fn file_to_memory_and_back() {
        let memory = memory();
        let source = file(b"0123456789");
        buffers(&memory, &[(0x10, 3), (0x20, 4)])
            .fill_from(&source, 2)
            .unwrap();
        let sink = file(b"");
        buffers(&memory, &[(0x10, 3), (0x20, 4)])
            .drain_to(&sink, 5)
            .unwrap();
        let mut all = [0; 12];
        std::os::unix::fs::FileExt::read_exact_at(&sink, &mut all, 0).unwrap();
        assert_eq!(&all, b"\0\0\0\0\x002345678");
        let error = buffers(&memory, &[(0x10, 11)])
            .fill_from(&source, 0)
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn many_pieces() {
        let memory = memory();
        let places: Vec<_> = (0..3000).map(|n| (n * 2, 1)).collect();
        let content: Vec<u8> = (0..3000u32).map(|n| n as u8).collect();
        buffers(&memory, &places)
            .fill_from(&file(&content), 0)
            .unwrap();
        let byte: u8 = memory.read_obj(GuestAddress(2999 * 2)).unwrap();
        assert_eq!(byte, 2999u32 as u8);
    }
}
