// SPDX-License-Identifier: GPL-2.0

//! From segment and offset to a linear address, with the checks segmentation
//! makes (APM volume 2, sections 4.10 to 4.12; APM volume 1, section 2.2).

use super::{EmuContext, Exec};
use crate::pc::addr::Gva;
use crate::pc::regs::{is_canonical, CpuMode, Cr4, Exception, SegReg, Segment};

/// The linear address of `len` bytes at `offset` in `segment`, to be written
/// or read.
///
/// # Errors
///
/// #SS for the stack segment and #GP for the others.
pub(super) fn linear(
    mode: CpuMode,
    la57: bool,
    reg: SegReg,
    segment: &Segment,
    offset: u64,
    len: u64,
    write: bool,
) -> Result<Gva, Exception> {
    let last = len.wrapping_sub(1);
    if mode.is_64bit() {
        let base = match reg {
            SegReg::Fs | SegReg::Gs => segment.base,
            _ => 0,
        };
        let start = base.wrapping_add(offset);
        let end = start.wrapping_add(last);
        if !is_canonical(start, la57) || !is_canonical(end, la57) {
            return Err(violation(reg));
        }
        return Ok(Gva(start));
    }
    if !mode.is_real_or_vm86() && !permits(segment, write) {
        return Err(violation(reg));
    }
    if !within_limit(segment, offset, last) {
        return Err(violation(reg));
    }
    Ok(Gva(segment.base.wrapping_add(offset) & 0xffff_ffff))
}

fn violation(reg: SegReg) -> Exception {
    if reg == SegReg::Ss {
        Exception::SS0
    } else {
        Exception::GP0
    }
}

/// Does the segment's type allow the access?
fn permits(segment: &Segment, write: bool) -> bool {
    let attributes = segment.attributes;
    if attributes.unusable() || !attributes.present() {
        return false;
    }
    if write {
        attributes.is_writable()
    } else {
        attributes.is_readable()
    }
}

/// Are the offsets from `offset` to `last` bytes further inside the segment?
fn within_limit(segment: &Segment, offset: u64, last: u64) -> bool {
    let Some(end) = offset.checked_add(last) else {
        return false;
    };
    let limit = u64::from(segment.limit);
    if !segment.attributes.is_expand_down() {
        return end <= limit;
    }
    let top = if segment.attributes.default_big() {
        0xffff_ffff
    } else {
        0xffff
    };
    offset > limit && end <= top
}

impl<C: EmuContext> Exec<'_, C> {
    /// The linear address of an operand in `reg`.
    pub(super) fn linear(
        &self,
        reg: SegReg,
        offset: u64,
        len: usize,
        write: bool,
    ) -> Result<Gva, Exception> {
        let la57 = self.ctx.cr4().has(Cr4::LA57);
        let segment = self.ctx.segment(reg);
        linear(self.mode, la57, reg, &segment, offset, len as u64, write)
    }

    /// The offset of the instruction's memory operand in its segment.
    pub(super) fn effective_offset(&self) -> u64 {
        let operand = &self.insn.memory;
        let mut offset = operand.disp;
        if operand.rip_relative {
            offset = offset.wrapping_add(self.next_rip());
        }
        if let Some(base) = operand.base {
            offset = offset.wrapping_add(self.ctx.gprs().get(base));
            if base == crate::pc::regs::Reg::Rsp {
                offset = offset.wrapping_add(self.rsp_bias);
            }
        }
        if let Some(index) = operand.index {
            let scaled = self.ctx.gprs().get(index) << (operand.scale & 3);
            offset = offset.wrapping_add(scaled);
        }
        offset & address_mask(self.insn.address_size)
    }
}

/// The bits of an offset of that many bytes.
pub(super) const fn address_mask(size: u8) -> u64 {
    match size {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pc::regs::Attributes;

    fn check(
        mode: CpuMode,
        segment: Segment,
        offset: u64,
        len: u64,
        write: bool,
    ) -> Result<u64, Exception> {
        linear(mode, false, SegReg::Ds, &segment, offset, len, write).map(|gva| gva.0)
    }

    #[test]
    fn limits() {
        let data = Segment {
            base: 0x1000,
            limit: 0xfff,
            selector: 8,
            attributes: Attributes(0x493),
        };
        let mode = CpuMode::Prot32;
        assert_eq!(check(mode, data, 0xffc, 4, true), Ok(0x1ffc));
        assert_eq!(check(mode, data, 0xffd, 4, true), Err(Exception::GP0));
        assert_eq!(
            check(mode, data, 0xffff_ffff, 2, false),
            Err(Exception::GP0)
        );
        let down = Segment {
            attributes: Attributes(0x497),
            ..data
        };
        assert_eq!(check(mode, down, 0xfff, 1, true), Err(Exception::GP0));
        assert_eq!(check(mode, down, 0x1000, 4, true), Ok(0x2000));
        assert_eq!(check(mode, down, 0xffff_fffe, 4, true), Err(Exception::GP0));
        let small = Segment {
            attributes: Attributes(0x97),
            ..data
        };
        assert_eq!(check(mode, small, 0xfffe, 2, true), Ok(0x10ffe));
        assert_eq!(check(mode, small, 0xffff, 2, true), Err(Exception::GP0));
    }

    #[test]
    fn types() {
        let mut segment = Segment {
            base: 0,
            limit: u32::MAX,
            selector: 8,
            attributes: Attributes(0xc91),
        };
        let mode = CpuMode::Prot32;
        assert!(check(mode, segment, 0, 4, false).is_ok());
        assert!(check(mode, segment, 0, 4, true).is_err(), "read-only data");
        segment.attributes = Attributes(0xc99);
        assert!(check(mode, segment, 0, 4, false).is_err(), "execute-only");
        segment.attributes = Attributes::CODE32;
        assert!(check(mode, segment, 0, 4, false).is_ok());
        assert!(check(mode, segment, 0, 4, true).is_err(), "code");
        assert!(check(CpuMode::Real, segment, 0, 4, true).is_ok());
        assert!(check(mode, Segment::NULL, 0, 1, false).is_err());
        let stack = linear(mode, false, SegReg::Ss, &Segment::NULL, 0, 1, true);
        assert_eq!(stack, Err(Exception::SS0));
    }

    #[test]
    fn long_mode() {
        let segment = Segment {
            base: 0x7000_0000_0000,
            ..Segment::NULL
        };
        let mode = CpuMode::Long64;
        assert_eq!(check(mode, segment, 0x10, 8, true), Ok(0x10), "no base");
        let fs = linear(mode, false, SegReg::Fs, &segment, 0x10, 8, true);
        assert_eq!(fs, Ok(Gva(0x7000_0000_0010)));
        let edge = 0x7fff_ffff_fff9;
        assert!(check(mode, segment, edge - 1, 8, true).is_ok());
        assert_eq!(check(mode, segment, edge, 8, true), Err(Exception::GP0));
    }

    #[test]
    fn wraps_at_four_gigabytes() {
        let segment = Segment {
            base: 0xffff_f000,
            limit: u32::MAX,
            selector: 8,
            attributes: Attributes::DATA32,
        };
        assert_eq!(check(CpuMode::Prot32, segment, 0x2000, 4, true), Ok(0x1000));
    }
}
