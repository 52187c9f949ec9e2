// SPDX-License-Identifier: GPL-2.0

//! Where the guest's code was found last: see [`super::instruction`].
//!
//! Holds addresses of the process's memory, which are those of guest memory as
//! long as the slots are what they were ([`View::generation`]).

use super::guest_access::Reader;
use super::memory::FlushRemote;
use super::memory::View;
use crate::host::mm::copy;
use crate::host::mm::copy::Word;
use crate::hw::nested::Format;
use crate::hw::Vendor;
use crate::pc::addr::Gpa;
use crate::pc::addr::Gva;
use crate::pc::addr::Hva;
use crate::pc::addr::PAGE_SIZE;
use crate::pc::regs::Cr0;
use crate::pc::regs::Efer;
use crate::pc::walk::GuestMemory;

/// Entries on the way to a page: five levels.
const MAX_ENTRIES: usize = 5;

/// Bytes that are read at once.
const READ: u64 = 16;

/// The longest instruction.
const LONGEST: u8 = 15;

/// Instruction bytes as fetched.
#[derive(Clone, Copy, Default)]
pub struct Fetched {
    /// The bytes, the first one lowest; zero beyond `len`.
    pub bytes: u128,
    /// How many there are, at most 15.
    pub len: u8,
}

/// What a translation of code depends on but the tables' contents. The
/// processor's properties do not change once it has run.
#[derive(Clone, Copy, Default)]
struct Key {
    page: Gva,
    cr3: u64,
    /// CR0, CR4 and EFER, of which none of the bits outside paging matter.
    mode: [u64; 3],
    cpl: u8,
}

impl Key {
    #[inline(always)]
    fn of<V: Vendor>(hw: &V, gva: Gva) -> Self {
        Self {
            page: gva.page_base(),
            cr3: hw.cr3(),
            mode: [hw.cr0(), hw.cr4(), hw.efer()],
            cpl: hw.cpl(),
        }
    }

    /// All in one comparison.
    #[inline]
    fn is(&self, other: &Self) -> bool {
        let [cr0, cr4, efer] = self.mode;
        let [other_cr0, other_cr4, other_efer] = other.mode;
        let differences = (self.page.0 ^ other.page.0)
            | (self.cr3 ^ other.cr3)
            | (cr0 ^ other_cr0)
            | (cr4 ^ other_cr4)
            | (efer ^ other_efer)
            | u64::from(self.cpl ^ other.cpl);
        differences == 0
    }
}

/// One page of code, and the way to it.
#[derive(Default)]
pub struct CodePage {
    key: Key,
    /// Of the slots; 0, which no slots have, for no page.
    generation: u64,
    /// Where the page is in the process.
    hva: Hva,
    entries: [Word; MAX_ENTRIES],
    count: usize,
}

impl CodePage {
    /// The code at `gva`, up to the end of its page, if it is on this page and
    /// all of it is in memory.
    #[inline(always)]
    pub fn fetch<V: Vendor, R: FlushRemote>(
        &self,
        hw: &V,
        gva: Gva,
        view: &View<'_, V::Nested, R>,
    ) -> Option<Fetched> {
        if !self.key.is(&Key::of(hw, gva)) || self.generation != view.generation() {
            return None;
        }
        let offset = gva.page_offset();
        // Not beyond the page.
        let start = offset.min(PAGE_SIZE - READ);
        let entries = self.entries.get(..self.count)?;
        let bytes = copy::read_if_nofault(entries, self.hva.wrapping_add(start))?;
        if start == offset {
            return Some(Fetched {
                bytes: bytes & (u128::MAX >> 8),
                len: LONGEST,
            });
        }
        let missing = offset.wrapping_sub(start) as u32;
        Some(Fetched {
            bytes: bytes.wrapping_shr(missing.wrapping_mul(8)),
            len: (READ as u8).wrapping_sub(missing as u8),
        })
    }
}

/// A walk begins with pointers that the processor holds, which are no memory to
/// look at again.
fn walks_registers<V: Vendor>(hw: &V) -> bool {
    Cr0(hw.cr0()).has(Cr0::PG) && !Efer(hw.efer()).has(Efer::LMA) && hw.pdptes().is_some()
}

/// Guest memory for one walk, which is remembered.
pub struct Recorder<'a, F: Format, R: FlushRemote> {
    reader: Reader<'a, F, R>,
    generation: u64,
    entries: [Word; MAX_ENTRIES],
    /// How many; more than there is room for when the walk cannot be
    /// remembered.
    count: usize,
}

impl<'a, F: Format, R: FlushRemote> Recorder<'a, F, R> {
    /// Nothing read yet.
    pub fn new(reader: Reader<'a, F, R>) -> Self {
        // Before anything is looked up: slots that are changed meanwhile have
        // another number then.
        let generation = reader.view.generation();
        Self {
            reader,
            generation,
            entries: [Word::default(); MAX_ENTRIES],
            count: 0,
        }
    }

    /// The page that the walk has found: nothing if that cannot be remembered.
    pub fn known<V: Vendor>(&self, hw: &V, gva: Gva, gpa: Gpa) -> CodePage {
        let page = self.reader.view.hva_of(gpa.page_base());
        match page {
            Ok((hva, _)) if self.count <= MAX_ENTRIES && !walks_registers(hw) => CodePage {
                key: Key::of(hw, gva),
                generation: self.generation,
                hva,
                entries: self.entries,
                count: self.count,
            },
            _ => CodePage::default(),
        }
    }

    fn note(&mut self, hva: Hva, value: u64) {
        let noted = self.entries.get(..self.count).unwrap_or(&[]);
        // A walk that is begun again reads the same entries.
        match noted.iter().find(|word| word.hva == hva) {
            Some(word) if word.value == value => return,
            Some(_) => return self.spoil(),
            None => {}
        }
        match self.entries.get_mut(self.count) {
            Some(place) => {
                *place = Word { hva, value };
                self.count = self.count.wrapping_add(1);
            }
            None => self.spoil(),
        }
    }

    fn spoil(&mut self) {
        self.count = usize::MAX;
    }
}

impl<F: Format, R: FlushRemote> GuestMemory for Recorder<'_, F, R> {
    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        let value = self.reader.read_u64(gpa)?;
        match self.reader.view.hva_of(gpa) {
            Ok((hva, _)) => self.note(hva, value),
            Err(_) => self.spoil(),
        }
        Some(value)
    }

    fn read_u32(&mut self, gpa: Gpa) -> Option<u32> {
        self.spoil();
        self.reader.read_u32(gpa)
    }

    fn cmpxchg_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Option<bool> {
        self.spoil();
        self.reader.cmpxchg_u64(gpa, old, new)
    }
}
