// SPDX-License-Identifier: GPL-2.0

//! Integer arithmetic with its flags (APM volume 3, chapter 3).
//!
//! Operands are the low `size` bytes (1, 2, 4 or 8) of a `u64`; results come
//! with the upper bits clear. Flags an instruction leaves undefined keep their
//! value or follow the same rule as when they are defined.

use crate::pc::regs::Rflags;

/// Number of bits of an operand.
#[inline]
pub const fn bits(size: u8) -> u32 {
    match size {
        1 => 8,
        2 => 16,
        4 => 32,
        _ => 64,
    }
}

/// The bits of an operand.
#[inline]
pub const fn mask(size: u8) -> u64 {
    u64::MAX >> (64 - bits(size))
}

#[inline]
const fn sign_bit(size: u8) -> u64 {
    1 << (bits(size) - 1)
}

/// `value` of `size` bytes, sign-extended to 64 bits.
#[inline]
pub const fn sign_extend(value: u64, size: u8) -> u64 {
    let unused = 64 - bits(size);
    (((value << unused) as i64) >> unused) as u64
}

/// The flags that say what a result looks like: ZF, SF, PF.
fn shape(result: u64, size: u8) -> Rflags {
    Rflags(0)
        .assign(Rflags::ZF, result == 0)
        .assign(Rflags::SF, result & sign_bit(size) != 0)
        .assign(Rflags::PF, (result as u8).count_ones() % 2 == 0)
}

/// Flags of AND, OR, XOR and TEST: CF, OF and AF are clear.
pub fn logic(result: u64, size: u8) -> Rflags {
    shape(result & mask(size), size)
}

/// `a + b + carry`.
pub fn add(a: u64, b: u64, carry: bool, size: u8) -> (u64, Rflags) {
    let sum = a.wrapping_add(b).wrapping_add(u64::from(carry));
    let result = sum & mask(size);
    let carries = (a & b) | ((a | b) & !sum);
    let flags = shape(result, size)
        .assign(Rflags::CF, carries & sign_bit(size) != 0)
        .assign(Rflags::AF, carries & 8 != 0)
        .assign(Rflags::OF, (a ^ sum) & (b ^ sum) & sign_bit(size) != 0);
    (result, flags)
}

/// `a - b - borrow`.
pub fn sub(a: u64, b: u64, borrow: bool, size: u8) -> (u64, Rflags) {
    let difference = a.wrapping_sub(b).wrapping_sub(u64::from(borrow));
    let result = difference & mask(size);
    let borrows = (!a & b) | ((!a | b) & difference);
    let flags = shape(result, size)
        .assign(Rflags::CF, borrows & sign_bit(size) != 0)
        .assign(Rflags::AF, borrows & 8 != 0)
        .assign(Rflags::OF, (a ^ b) & (a ^ difference) & sign_bit(size) != 0);
    (result, flags)
}

/// The eight operations of opcodes 00 to 3F and of group 1, by number.
/// Returns the result (for CMP, the difference nobody stores) and the flags.
pub fn binary(operation: u8, a: u64, b: u64, flags: Rflags, size: u8) -> (u64, Rflags) {
    let carry = flags.has(Rflags::CF);
    let bitwise = |result: u64| (result & mask(size), logic(result, size));
    match operation & 7 {
        0 => add(a, b, false, size),
        1 => bitwise(a | b),
        2 => add(a, b, carry, size),
        3 => sub(a, b, carry, size),
        4 => bitwise(a & b),
        6 => bitwise(a ^ b),
        _ => sub(a, b, false, size),
    }
}

/// INC or DEC: like ADD or SUB of 1, but CF stays.
pub fn step(value: u64, down: bool, flags: Rflags, size: u8) -> (u64, Rflags) {
    let (result, changed) = if down {
        sub(value, 1, false, size)
    } else {
        add(value, 1, false, size)
    };
    let carry = flags.has(Rflags::CF);
    (result, changed.assign(Rflags::CF, carry))
}

/// Rotates and shifts of group 2, by number: ROL, ROR, RCL, RCR, SHL, SHR,
/// SHL again, SAR. Returns the result and all arithmetic flags.
pub fn shift(operation: u8, value: u64, count: u8, flags: Rflags, size: u8) -> (u64, Rflags) {
    let count = u32::from(count) & if size == 8 { 63 } else { 31 };
    if count == 0 {
        return (value & mask(size), flags & Rflags::ARITHMETIC);
    }
    match operation & 7 {
        0 | 1 => rotate(operation & 1 != 0, value, count, flags, size),
        2 | 3 => rotate_carry(operation & 1 != 0, value, count, flags, size),
        5 => shift_right(value & mask(size), count, false, size),
        7 => shift_right(sign_extend(value, size), count, true, size),
        _ => shift_left(value, count, size),
    }
}

fn rotate(right: bool, value: u64, count: u32, flags: Rflags, size: u8) -> (u64, Rflags) {
    let width = bits(size);
    let value = value & mask(size);
    let left = if right {
        (width - count % width) % width
    } else {
        count % width
    };
    let wide = u128::from(value) << left;
    let result = ((wide | (wide >> width)) as u64) & mask(size);
    let top = result & sign_bit(size) != 0;
    let (carry, overflow) = if right {
        (top, top != (result & (sign_bit(size) >> 1) != 0))
    } else {
        let carry = result & 1 != 0;
        (carry, top != carry)
    };
    (result, rotated(flags, carry, overflow))
}

fn rotate_carry(right: bool, value: u64, count: u32, flags: Rflags, size: u8) -> (u64, Rflags) {
    let width = bits(size) + 1;
    let count = count % width;
    let carry = u128::from(flags.has(Rflags::CF));
    let value = u128::from(value & mask(size)) | (carry << bits(size));
    // Rotate `width` bits, the carry being the highest.
    let left = if right {
        (width - count) % width
    } else {
        count
    };
    let rotated_value = (value << left) | value.wrapping_shr(width.wrapping_sub(left));
    let result = (rotated_value as u64) & mask(size);
    let carry = (rotated_value >> bits(size)) & 1 != 0;
    let top = result & sign_bit(size) != 0;
    let overflow = if right {
        top != (result & (sign_bit(size) >> 1) != 0)
    } else {
        top != carry
    };
    (result, rotated(flags, carry, overflow))
}

/// Rotates change only CF and OF.
fn rotated(flags: Rflags, carry: bool, overflow: bool) -> Rflags {
    (flags & Rflags::ARITHMETIC)
        .assign(Rflags::CF, carry)
        .assign(Rflags::OF, overflow)
}

fn shift_left(value: u64, count: u32, size: u8) -> (u64, Rflags) {
    let wide = u128::from(value & mask(size)) << count;
    let result = (wide as u64) & mask(size);
    let carry = (wide >> bits(size)) & 1 != 0;
    let flags = shape(result, size)
        .assign(Rflags::CF, carry)
        .assign(Rflags::OF, carry != (result & sign_bit(size) != 0));
    (result, flags)
}

/// `value` is extended as the shift demands: by zeros or by its sign.
fn shift_right(value: u64, count: u32, arithmetic: bool, size: u8) -> (u64, Rflags) {
    let before_last = if arithmetic {
        (value as i64).wrapping_shr(count.wrapping_sub(1)) as u64
    } else {
        value.wrapping_shr(count.wrapping_sub(1))
    };
    let last = if arithmetic {
        ((before_last as i64) >> 1) as u64
    } else {
        before_last >> 1
    };
    let result = last & mask(size);
    let overflow = !arithmetic && value & sign_bit(size) != 0;
    let flags = shape(result, size)
        .assign(Rflags::CF, before_last & 1 != 0)
        .assign(Rflags::OF, overflow);
    (result, flags)
}

/// SHLD and SHRD: shifts `value`, filling with the bits of `fill`.
pub fn double_shift(
    right: bool,
    value: u64,
    fill: u64,
    count: u8,
    flags: Rflags,
    size: u8,
) -> (u64, Rflags) {
    let width = bits(size);
    let count = u32::from(count) & if size == 8 { 63 } else { 31 };
    let value = value & mask(size);
    if count == 0 {
        return (value, flags & Rflags::ARITHMETIC);
    }
    let fill = u128::from(fill & mask(size));
    // A count beyond 16 bits is undefined; go on with the filling operand.
    let (result, carry) = if right {
        let wide =
            u128::from(value) | (fill << width) | (u128::from(value) << (2 * width - 1) << 1);
        let shifted = wide >> (count - 1);
        ((shifted >> 1) as u64, shifted & 1 != 0)
    } else {
        let wide = (u128::from(value) << width) | fill;
        let shifted = wide << (count - 1);
        let carry = (shifted >> (2 * width - 1)) & 1 != 0;
        (((shifted << 1) >> width) as u64, carry)
    };
    let result = result & mask(size);
    let sign_changed = (result ^ value) & sign_bit(size) != 0;
    let changed = shape(result, size)
        .assign(Rflags::CF, carry)
        .assign(Rflags::OF, sign_changed);
    (result, changed)
}

/// The low and high half of an unsigned or signed product, and whether the
/// high half matters (CF and OF).
pub fn multiply(signed: bool, a: u64, b: u64, size: u8) -> (u64, u64, bool) {
    let product = if signed {
        let a = i128::from(sign_extend(a, size) as i64);
        let b = i128::from(sign_extend(b, size) as i64);
        a.wrapping_mul(b) as u128
    } else {
        u128::from(a & mask(size)).wrapping_mul(u128::from(b & mask(size)))
    };
    let low = (product as u64) & mask(size);
    let high = ((product >> bits(size)) as u64) & mask(size);
    let expected = if signed && low & sign_bit(size) != 0 {
        mask(size)
    } else {
        0
    };
    (low, high, high != expected)
}

/// Quotient and remainder of `high:low / divisor`; `None` is #DE.
pub fn divide(signed: bool, high: u64, low: u64, divisor: u64, size: u8) -> Option<(u64, u64)> {
    if !signed {
        return divide_unsigned(
            high & mask(size),
            low & mask(size),
            divisor & mask(size),
            size,
        );
    }
    // By magnitudes: the remainder has the dividend's sign.
    let negative = high & sign_bit(size) != 0;
    let (high, low) = if negative {
        negate_pair(high, low, size)
    } else {
        (high & mask(size), low & mask(size))
    };
    let divisor = sign_extend(divisor, size);
    let opposite = negative != ((divisor as i64) < 0);
    let magnitude = (divisor as i64).unsigned_abs();
    let (quotient, remainder) = divide_unsigned(high, low, magnitude, size)?;
    let largest = if opposite {
        sign_bit(size)
    } else {
        sign_bit(size) - 1
    };
    if quotient > largest {
        return None;
    }
    let signed = |value: u64, negative: bool| {
        let value = if negative {
            value.wrapping_neg()
        } else {
            value
        };
        value & mask(size)
    };
    Some((signed(quotient, opposite), signed(remainder, negative)))
}

fn negate_pair(high: u64, low: u64, size: u8) -> (u64, u64) {
    let low = low.wrapping_neg() & mask(size);
    let borrow = u64::from(low != 0);
    let high = high.wrapping_neg().wrapping_sub(borrow);
    (high & mask(size), low)
}

/// Long division; the kernel has no division of 128-bit numbers to offer.
/// The operands are of `size` bytes.
fn divide_unsigned(high: u64, low: u64, divisor: u64, size: u8) -> Option<(u64, u64)> {
    // A quotient that does not fit, or a divisor of 0.
    if high >= divisor {
        return None;
    }
    if size != 8 || high == 0 {
        let dividend = if size == 8 {
            low
        } else {
            high.wrapping_shl(bits(size)) | low
        };
        return Some((
            dividend.checked_div(divisor)?,
            dividend.checked_rem(divisor)?,
        ));
    }
    let mut remainder = high;
    let mut quotient = 0;
    for bit in (0..64).rev() {
        let carried = remainder >> 63 != 0;
        remainder = (remainder << 1) | ((low >> bit) & 1);
        quotient <<= 1;
        if carried || remainder >= divisor {
            remainder = remainder.wrapping_sub(divisor);
            quotient |= 1;
        }
    }
    Some((quotient, remainder))
}

/// Does condition `code` (the low four bits of Jcc, SETcc, CMOVcc) hold
/// (APM volume 3, table A-5)?
pub fn condition(code: u8, flags: Rflags) -> bool {
    let sign_differs = flags.has(Rflags::SF) != flags.has(Rflags::OF);
    let holds = match (code >> 1) & 7 {
        0 => flags.has(Rflags::OF),
        1 => flags.has(Rflags::CF),
        2 => flags.has(Rflags::ZF),
        3 => flags.any(Rflags::CF | Rflags::ZF),
        4 => flags.has(Rflags::SF),
        5 => flags.has(Rflags::PF),
        6 => sign_differs,
        _ => flags.has(Rflags::ZF) || sign_differs,
    };
    holds != (code & 1 != 0)
}
