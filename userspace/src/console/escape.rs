// SPDX-License-Identifier: GPL-2.0-or-later

//! The keys on the console that are not the guest's: Ctrl-A and one more, as in QEMU.

/// The key that begins a command.
const ESCAPE: u8 = 0x01;

/// What is printed for Ctrl-A h.
pub const HELP: &str = "\
Ctrl-A x  end the guest
Ctrl-A a  send Ctrl-A to the guest
Ctrl-A r  show what each vCPU is doing
Ctrl-A h  this help
";

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Quit,
    Report,
    Help,
}

/// Takes the user's commands out of a stream of input.
#[derive(Debug, Default)]
pub struct Escapes {
    /// The last byte was the escape key.
    armed: bool,
}

impl Escapes {
    /// Reads `input`: what is the guest's goes to `guest`; commands are returned, in order.
    /// Nothing after [`Request::Quit`] is read.
    pub fn filter(&mut self, input: &[u8], guest: &mut Vec<u8>) -> Vec<Request> {
        let mut requests = Vec::new();
        for byte in input {
            if !self.armed {
                self.armed = *byte == ESCAPE;
                if !self.armed {
                    guest.push(*byte);
                }
                continue;
            }
            self.armed = false;
            match *byte {
                b'x' | b'X' => {
                    requests.push(Request::Quit);
                    break;
                }
                b'r' | b'R' => requests.push(Request::Report),
                b'h' | b'H' | b'?' => requests.push(Request::Help),
                b'a' | ESCAPE => guest.push(ESCAPE),
                // Not a command: both keys are the guest's.
                other => guest.extend([ESCAPE, other]),
            }
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pieces: &[&[u8]]) -> (Vec<u8>, Vec<Request>) {
        let mut escapes = Escapes::default();
        let (mut guest, mut requests) = (Vec::new(), Vec::new());
        for piece in pieces {
            requests.extend(escapes.filter(piece, &mut guest));
        }
        (guest, requests)
    }

    #[test]
    fn ordinary_keys_pass() {
        assert_eq!(
            run(&[b"ls -l x\r\x03\xff"]),
            (b"ls -l x\r\x03\xff".to_vec(), vec![])
        );
    }

    #[test]
    fn quit() {
        assert_eq!(run(&[b"ab\x01xcd"]), (b"ab".to_vec(), vec![Request::Quit]));
    }

    #[test]
    fn split_between_reads() {
        assert_eq!(
            run(&[b"a\x01", b"", b"x"]),
            (b"a".to_vec(), vec![Request::Quit])
        );
        assert_eq!(run(&[b"\x01", b"a"]), (vec![1], vec![]));
    }

    #[test]
    fn the_escape_key_itself() {
        assert_eq!(run(&[b"\x01a\x01\x01"]), (vec![1, 1], vec![]));
        // The second Ctrl-A of a pair does not begin a command.
        assert_eq!(run(&[b"\x01\x01x"]), (b"\x01x".to_vec(), vec![]));
    }

    #[test]
    fn help_and_unknown_commands() {
        assert_eq!(
            run(&[b"\x01hq\x01r\x01q"]),
            (b"q\x01q".to_vec(), vec![Request::Help, Request::Report])
        );
    }
}
