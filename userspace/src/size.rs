// SPDX-License-Identifier: GPL-2.0-or-later

//! Sizes as people write them: `512M`, `2G`, `1048576`.

use std::fmt;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// An amount of memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Reads a size: a whole number, then optionally K, M, G or T (powers of 1024, any case), with
/// or without `B` or `iB` behind it. A bare number is in mebibytes, as in QEMU's `-m`.
///
/// # Errors
///
/// A sentence for the user, when `text` is not such a size or is too large to be an address.
pub fn parse(text: &str) -> Result<ByteSize, String> {
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at(digits_end);
    let number: u64 = digits.parse().map_err(|_| {
        format!("`{text}` is not a size; write a number and a unit, as in 512M or 2G")
    })?;
    let unit = match suffix.to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => KIB,
        "" | "m" | "mb" | "mib" => MIB,
        "g" | "gb" | "gib" => GIB,
        "t" | "tb" | "tib" => TIB,
        _ => {
            return Err(format!(
                "`{suffix}` is not a unit; use K, M, G or T, as in 512M or 2G"
            ))
        }
    };
    number
        .checked_mul(unit)
        .filter(|bytes| *bytes < 1 << 46)
        .map(ByteSize)
        .ok_or_else(|| format!("`{text}` is more memory than a machine can have"))
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            bytes if bytes >= GIB && bytes % GIB == 0 => (GIB, "GiB"),
            bytes if bytes >= MIB => (MIB, "MiB"),
            _ => (KIB, "KiB"),
        };
        // Rounded up: the number answers "how much do I need?".
        write!(f, "{} {name}", self.0.div_ceil(unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(parse("512M"), Ok(ByteSize(512 * MIB)));
        assert_eq!(parse("512"), Ok(ByteSize(512 * MIB)));
        assert_eq!(parse("2g"), Ok(ByteSize(2 * GIB)));
        assert_eq!(parse("65536KiB"), Ok(ByteSize(64 * MIB)));
        assert_eq!(parse("1TB"), Ok(ByteSize(1 << 40)));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "M",
            "-1M",
            "1.5G",
            "12Q",
            "1 G",
            "99999999999999999999",
            "64T",
            "18446744073709551615T",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shown_in_the_largest_fitting_unit() {
        assert_eq!(ByteSize(3 * GIB).to_string(), "3 GiB");
        assert_eq!(ByteSize(1536 * MIB).to_string(), "1536 MiB");
        assert_eq!(ByteSize(MIB + 1).to_string(), "2 MiB");
        assert_eq!(ByteSize(4096).to_string(), "4 KiB");
    }
}
