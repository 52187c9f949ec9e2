// SPDX-License-Identifier: GPL-2.0

//! Moves between an XMM register and memory (APM volume 4). Only the legacy
//! SSE encodings: they leave the upper parts of wider registers alone.

use super::{EmuContext, Exec, Outcome, Step};
use crate::pc::decode::{Mandatory, Map};
use crate::pc::regs::{Cr0, Cr4, Exception};

/// What a vector move does.
struct Move {
    /// Bytes in memory: 4, 8 or 16.
    len: u8,
    /// From register to memory?
    store: bool,
    /// Must the address be a multiple of the length?
    aligned: bool,
    /// Which part of the register.
    part: Part,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The low bytes; a load clears the others.
    Low,
    /// The low eight bytes; a load keeps the others.
    LowKept,
    /// The high eight bytes; a load keeps the others.
    High,
}

const fn whole(store: bool, aligned: bool) -> Move {
    Move {
        len: 16,
        store,
        aligned,
        part: Part::Low,
    }
}

const fn scalar(len: u8, store: bool) -> Move {
    Move {
        len,
        store,
        aligned: false,
        part: Part::Low,
    }
}

const fn half(store: bool, part: Part) -> Move {
    Move {
        len: 8,
        store,
        aligned: false,
        part,
    }
}

impl<C: EmuContext> Exec<'_, C> {
    fn vector_form(&self) -> Option<Move> {
        use Mandatory::{None as Np, F2, F3, P66};
        if self.insn.map == Map::Of38 {
            return Some(whole(false, true));
        }
        let store = self.insn.opcode & 1 != 0;
        // MOVD and MOVQ with a general register's worth of memory.
        let general = if self.insn.rex.w() { 8 } else { 4 };
        Some(match (self.insn.opcode, self.insn.prefixes.mandatory()) {
            (0x10 | 0x11, Np | P66) => whole(store, false),
            (0x10 | 0x11, F3) => scalar(4, store),
            (0x10 | 0x11, F2) => scalar(8, store),
            (0x12 | 0x13, Np | P66) => half(store, Part::LowKept),
            (0x16 | 0x17, Np | P66) => half(store, Part::High),
            (0x28 | 0x29, Np | P66) => whole(store, true),
            (0x2b, Np | P66) => whole(true, true),
            (0x6e, P66) => scalar(general, false),
            (0x7e, P66) => scalar(general, true),
            (0x7e, F3) => scalar(8, false),
            (0xd6, P66) => scalar(8, true),
            (0x6f, P66) => whole(false, true),
            (0x7f, P66) => whole(true, true),
            (0x6f, F3) => whole(false, false),
            (0x7f, F3) => whole(true, false),
            (0xe7, P66) => whole(true, true),
            (0xf0, F2) => whole(false, false),
            _ => return None,
        })
    }

    pub(super) fn vector_move(&mut self) -> Step<()> {
        if self.insn.modrm.is_register() {
            return Err(Outcome::Unhandleable);
        }
        let form = self.vector_form().ok_or(Outcome::Unhandleable)?;
        self.check_vector_use()?;
        let number = self.insn.reg().number();
        let len = usize::from(form.len);
        let offset = self.effective_offset();
        let gva = self.linear(self.insn.memory.segment, offset, len, form.store)?;
        if form.aligned && gva.0 & 15 != 0 {
            return Err(Exception::GP0.into());
        }
        let access = self.data_access(form.store);
        let span = self.translate(gva, len, access)?;
        let register = self.ctx.xmm(number);
        let mut bytes = [0; 16];
        let data = &mut bytes[..len.min(16)];
        if form.store {
            let value = match form.part {
                Part::High => register >> 64,
                _ => register,
            };
            for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
                *to = from;
            }
            self.write_span(&span, data)?;
            return self.finish();
        }
        self.read_span(&span, data)?;
        let value = u128::from_le_bytes(bytes);
        let low = u128::from(u64::MAX);
        let value = match form.part {
            Part::Low => value,
            Part::LowKept => (register & !low) | value,
            Part::High => (register & low) | (value << 64),
        };
        self.ctx.set_xmm(number, value);
        self.finish()
    }

    /// May SSE instructions be used (APM volume 2, section 11.3)?
    fn check_vector_use(&self) -> Result<(), Exception> {
        if self.ctx.cr0().has(Cr0::EM) || !self.ctx.cr4().has(Cr4::OSFXSR) {
            return Err(Exception::UD);
        }
        if self.ctx.cr0().has(Cr0::TS) {
            return Err(Exception::NM);
        }
        Ok(())
    }
}
