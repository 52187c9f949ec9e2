// SPDX-License-Identifier: GPL-2.0-or-later

//! What the lab and its agent in the host under test say to each other.
//!
//! Frames on a byte stream: a kind (1 byte), a length (4 bytes, little
//! endian), and as many bytes of content. The stream is a virtio-serial port
//! or a second serial line, never the console, so that a command's output and
//! the kernel's messages do not mix.

use std::io::{self, ErrorKind, Read, Write};

/// Longer frames are refused: the stream is then not one of frames.
const MAX: usize = 1 << 20;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// The kinds of frames.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $value,)* }

        impl Kind {
            fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($value => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// To the agent: bytes for the command's standard input.
    Stdin = 1,
    /// To the agent: the standard input is at its end.
    StdinEnd = 2,
    /// To the agent: rows and columns of the terminal, two bytes each.
    WindowSize = 3,
    /// To the lab: the host is up, the command is running.
    Started = 16,
    /// To the lab: the command's standard output, or all a terminal shows.
    Stdout = 17,
    /// To the lab: the command's standard error.
    Stderr = 18,
    /// To the lab: the command's exit status, four bytes; the last frame.
    Exit = 19,
    /// To the lab: why the agent cannot go on, as text; the last frame.
    Failed = 20,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub content: Vec<u8>,
}

/// Writes one frame in one piece.
pub fn send(to: &mut impl Write, kind: Kind, content: &[u8]) -> io::Result<()> {
    let length = u32::try_from(content.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(5 + content.len());
    bytes.push(kind as u8);
    bytes.extend(length.to_le_bytes());
    bytes.extend(content);
    to.write_all(&bytes)?;
    to.flush()
}

/// Reads one frame; `None` at the end of the stream.
pub fn receive(from: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut head = [0; 5];
    match from.read_exact(&mut head) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let (kind, length) = parse_head(head)?;
    let mut content = vec![0; length];
    from.read_exact(&mut content)?;
    Ok(Some(Frame { kind, content }))
}

/// Takes the first whole frame off `buffer`; `None` until there is one.
pub fn take(buffer: &mut Vec<u8>) -> io::Result<Option<Frame>> {
    let Some(head) = buffer.first_chunk::<5>() else {
        return Ok(None);
    };
    let (kind, length) = parse_head(*head)?;
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    let content = buffer[5..5 + length].to_vec();
    buffer.drain(..5 + length);
    Ok(Some(Frame { kind, content }))
}

fn parse_head(head: [u8; 5]) -> io::Result<(Kind, usize)> {
    let [kind, length @ ..] = head;
    let length = u32::from_le_bytes(length) as usize;
    match Kind::from_byte(kind) {
        Some(kind) if length <= MAX => Ok((kind, length)),
        _ => Err(io::Error::new(ErrorKind::InvalidData, "not a frame")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let mut bytes = Vec::new();
        send(&mut bytes, Kind::Stdout, b"hello").unwrap();
        send(&mut bytes, Kind::Exit, &7u32.to_le_bytes()).unwrap();
        let mut buffer = Vec::new();
        let mut got = Vec::new();
        for byte in &bytes {
            buffer.push(*byte);
            while let Some(frame) = take(&mut buffer).unwrap() {
                got.push(frame);
            }
        }
        assert_eq!(got.len(), 2);
        assert_eq!(
            (got[0].kind, &got[0].content[..]),
            (Kind::Stdout, &b"hello"[..])
        );
        let mut whole = &bytes[..];
        assert_eq!(receive(&mut whole).unwrap().as_ref(), got.first());
        assert_eq!(receive(&mut whole).unwrap().as_ref(), got.last());
        assert_eq!(receive(&mut whole).unwrap(), None);
    }

    #[test]
    fn noise_is_refused() {
        assert!(take(&mut vec![0, 0, 0, 0, 0]).is_err());
        assert!(take(&mut vec![17, 255, 255, 255, 255]).is_err());
    }
}
