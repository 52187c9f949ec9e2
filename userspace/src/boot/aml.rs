// SPDX-License-Identifier: GPL-2.0-or-later

//! ACPI machine language: as much of it as describes our devices (ACPI 6.5, chapters 19.6 and 20,
//! resources 6.4).
//!
//! Every function returns the encoding of one object. (The `acpi_tables` crate would do, but no
//! published version compiles with Debian 13's rustc.)

const NAME_OP: u8 = 0x08;
const BYTE_PREFIX: u8 = 0x0a;
const WORD_PREFIX: u8 = 0x0b;
const DWORD_PREFIX: u8 = 0x0c;
const STRING_PREFIX: u8 = 0x0d;
const SCOPE_OP: u8 = 0x10;
const BUFFER_OP: u8 = 0x11;
const PACKAGE_OP: u8 = 0x12;
const EXT_PREFIX: u8 = 0x5b;
const DEVICE_OP: u8 = 0x82;

/// Small resource: end tag; its checksum may be 0, "treat as correct".
const END_TAG: [u8; 2] = [0x79, 0];

/// A name segment of four characters, as in `b"_HID"`, or `\` and one.
pub type Segment = [u8; 4];

/// A length in front of `content`, which counts itself (20.2.4).
fn with_length(content: &[u8]) -> Vec<u8> {
    let mut bytes = match content.len() {
        short @ 0..=62 => vec![(short + 1) as u8],
        medium @ 63..=4093 => {
            let length = medium + 2;
            vec![0x40 | (length & 0xf) as u8, (length >> 4) as u8]
        }
        long => {
            let length = long + 3;
            vec![
                0x80 | (length & 0xf) as u8,
                (length >> 4) as u8,
                (length >> 12) as u8,
            ]
        }
    };
    bytes.extend_from_slice(content);
    bytes
}

/// An integer, in its shortest form.
pub fn integer(value: u32) -> Vec<u8> {
    match value {
        0 | 1 => vec![value as u8],
        2..=0xff => vec![BYTE_PREFIX, value as u8],
        0x100..=0xffff => {
            let [low, high, ..] = value.to_le_bytes();
            vec![WORD_PREFIX, low, high]
        }
        _ => [&[DWORD_PREFIX][..], &value.to_le_bytes()].concat(),
    }
}

/// An ASCII string.
pub fn string(text: &str) -> Vec<u8> {
    [&[STRING_PREFIX], text.as_bytes(), &[0]].concat()
}

/// A compressed EISA id, as in `b"PNP0501"`: three letters, four hexadecimal digits (19.3.4).
pub fn eisa_id(id: [u8; 7]) -> Vec<u8> {
    let letter = |c: u8| u32::from(c.wrapping_sub(0x40) & 0x1f);
    let digit = |c: u8| char::from(c).to_digit(16).unwrap_or(0);
    let [a, b, c, digits @ ..] = id;
    let vendor = letter(a) << 10 | letter(b) << 5 | letter(c);
    let product = digits.iter().fold(0, |value, c| value << 4 | digit(*c));
    integer((vendor << 16 | product).swap_bytes())
}

/// `Name (segment, value)`
pub fn name(segment: Segment, value: &[u8]) -> Vec<u8> {
    [&[NAME_OP][..], &segment, value].concat()
}

/// `Package () { elements }`
pub fn package(elements: &[Vec<u8>]) -> Vec<u8> {
    let mut content = vec![elements.len() as u8];
    content.extend(elements.concat());
    [vec![PACKAGE_OP], with_length(&content)].concat()
}

/// `Device (segment) { children }`
pub fn device(segment: Segment, children: &[Vec<u8>]) -> Vec<u8> {
    let content = [&segment[..], &children.concat()].concat();
    [vec![EXT_PREFIX, DEVICE_OP], with_length(&content)].concat()
}

/// `Scope (\segment) { children }`
pub fn root_scope(segment: Segment, children: &[Vec<u8>]) -> Vec<u8> {
    let content = [b"\\", &segment[..], &children.concat()].concat();
    [vec![SCOPE_OP], with_length(&content)].concat()
}

/// `ResourceTemplate () { resources }`
pub fn resources(resources: &[Vec<u8>]) -> Vec<u8> {
    let bytes = [resources.concat(), END_TAG.to_vec()].concat();
    let content = [integer(bytes.len() as u32), bytes].concat();
    [vec![BUFFER_OP], with_length(&content)].concat()
}

/// I/O ports `base..base + length`, decoded in 16 bits (6.4.2.5).
pub fn io(base: u16, length: u8) -> Vec<u8> {
    let [low, high] = base.to_le_bytes();
    vec![0x47, 1, low, high, low, high, 1, length]
}

/// An edge-triggered, active-high, exclusive ISA interrupt below 16 (6.4.2.1).
pub fn irq(number: u32) -> Vec<u8> {
    let [low, high] = (1u16 << (number & 15)).to_le_bytes();
    vec![0x22, low, high]
}

/// What an address window is a window on (6.4.3.5).
#[derive(Clone, Copy)]
enum Window {
    Memory = 0,
    Io = 1,
    BusNumber = 2,
}

/// The bridge passes the range on, at fixed addresses.
const WINDOW_FIXED_PRODUCER: u8 = 1 << 2 | 1 << 3;

fn word_window(kind: Window, flags: u8, first: u16, last: u16) -> Vec<u8> {
    let mut bytes = vec![0x88, 13, 0, kind as u8, WINDOW_FIXED_PRODUCER, flags];
    let length = last.wrapping_sub(first).wrapping_add(1);
    for field in [0, first, last, 0, length] {
        bytes.extend(field.to_le_bytes());
    }
    bytes
}

/// PCI bus numbers `first..=last`.
pub fn bus_numbers(first: u16, last: u16) -> Vec<u8> {
    word_window(Window::BusNumber, 0, first, last)
}

/// I/O ports `first..=last` that a bridge passes on.
pub fn io_window(first: u16, last: u16) -> Vec<u8> {
    /// The whole range, ISA addresses and others.
    const ENTIRE: u8 = 3;
    word_window(Window::Io, ENTIRE, first, last)
}

/// Uncached memory `first..=last` that a bridge passes on.
pub fn memory_window(first: u32, last: u32) -> Vec<u8> {
    const WRITABLE: u8 = 1;
    let mut bytes = vec![
        0x87,
        23,
        0,
        Window::Memory as u8,
        WINDOW_FIXED_PRODUCER,
        WRITABLE,
    ];
    let length = last.wrapping_sub(first).wrapping_add(1);
    for field in [0, first, last, 0, length] {
        bytes.extend(field.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_short() {
        assert_eq!(integer(0), [0]);
        assert_eq!(integer(1), [1]);
        assert_eq!(integer(5), [0x0a, 5]);
        assert_eq!(integer(0x1234), [0x0b, 0x34, 0x12]);
        assert_eq!(integer(0x1234_5678), [0x0c, 0x78, 0x56, 0x34, 0x12]);
    }

    #[test]
    fn eisa_ids() {
        // The specification's example (19.3.4) is EISAID("PNP0C09") = 0x090CD041.
        assert_eq!(eisa_id(*b"PNP0C09"), integer(0x090c_d041));
        assert_eq!(eisa_id(*b"PNP0501"), integer(0x0105_d041));
    }

    #[test]
    fn lengths_count_themselves() {
        assert_eq!(with_length(&[7; 62])[..2], [63, 7]);
        let medium = with_length(&[7; 63]);
        assert_eq!(medium[..3], [0x41, 65 >> 4, 7]);
        assert_eq!(medium.len(), 65);
        let long = with_length(&[7; 4094]);
        let length =
            usize::from(long[0] & 0xf) | usize::from(long[1]) << 4 | usize::from(long[2]) << 12;
        assert_eq!((length, long[0] >> 6), (long.len(), 2));
    }

    #[test]
    fn packages_and_names() {
        // Name (_S5_, Package () { 5, 0 }), as iasl encodes it.
        assert_eq!(
            name(*b"_S5_", &package(&[integer(5), integer(0)])),
            [0x08, b'_', b'S', b'5', b'_', 0x12, 5, 2, 0x0a, 5, 0]
        );
    }

    #[test]
    fn resource_template() {
        // ResourceTemplate () { IO (Decode16, 0x3F8, 0x3F8, 1, 8) IRQNoFlags () {4} }
        assert_eq!(
            resources(&[io(0x3f8, 8), irq(4)]),
            [0x11, 0x10, 0x0a, 13, 0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x22, 0x10, 0, 0x79, 0]
        );
    }
}
