// SPDX-License-Identifier: GPL-2.0-or-later

//! What a guest writes to its console, on the way to a file or terminal.
//!
//! A vCPU puts bytes into a buffer and goes on; a thread of its own writes them out. A reader
//! that has stopped reading holds up the guest only once the buffer is full, and never the end of
//! the run.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::sync::lock;

/// Bytes that may wait to be written out.
const BUFFER_MAX: usize = 64 * 1024;

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    /// The thread has taken bytes and not written them all out yet.
    writing: bool,
    /// No more bytes will be accepted or written.
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The end guests write to. Clones go to the same place.
#[derive(Clone)]
pub struct Output(Option<Arc<Shared>>);

impl Output {
    /// An output that goes nowhere.
    pub fn none() -> Self {
        Self(None)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(shared) = &self.0 else {
            return Ok(bytes.len());
        };
        let mut state = lock(&shared.state);
        while state.buffer.len() >= BUFFER_MAX && !state.closed {
            state = shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.buffer.extend_from_slice(bytes);
        shared.changed.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread that writes out what guests write.
pub struct Writer {
    shared: Arc<Shared>,
    /// Detached when the run ends with the reader stuck.
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts writing to `file`.
    ///
    /// # Errors
    ///
    /// When the system has no thread left.
    pub fn start(file: File) -> Result<(Self, Output)> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || write_out(&theirs, file))
            .context("cannot start a thread for the console")?;
        let writer = Self {
            shared: shared.clone(),
            thread: Some(thread),
        };
        Ok((writer, Output(Some(shared))))
    }

    /// Waits until everything written so far is out, but no longer than `limit`.
    pub fn drain(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = lock(&self.shared.state);
        while (state.writing || !state.buffer.is_empty()) && !state.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Lets go of everybody who waits to write: the run is over.
    pub fn close(&self) {
        lock(&self.shared.state).closed = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
        let stuck = lock(&self.shared.state).writing;
        if let Some(thread) = self.thread.take().filter(|_| !stuck) {
            // A panic would have ended the process.
            let _ = thread.join();
        }
    }
}

fn write_out(shared: &Shared, mut file: File) {
    loop {
        let mut state = lock(&shared.state);
        while state.buffer.is_empty() && !state.closed {
            state = shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return;
        }
        let bytes = std::mem::take(&mut state.buffer);
        state.writing = true;
        drop(state);
        shared.changed.notify_all();
        let written = file.write_all(&bytes);
        let mut state = lock(&shared.state);
        state.writing = false;
        // Nobody reads any more, or the disk is full. The guest does not care.
        state.closed |= written.is_err();
        drop(state);
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    /// A place to write to and the end to read it from.
    fn place() -> (UnixStream, File) {
        let (reader, writer) = UnixStream::pair().unwrap();
        (reader, File::from(std::os::fd::OwnedFd::from(writer)))
    }

    #[test]
    fn everything_arrives_in_order() {
        let (mut reader, file) = place();
        let (writer, mut output) = Writer::start(file).unwrap();
        let text: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let expected = text.clone();
        let receiver = std::thread::spawn(move || {
            let mut received = Vec::new();
            reader.read_to_end(&mut received).unwrap();
            received
        });
        for byte in text {
            output.write_all(&[byte]).unwrap();
        }
        writer.drain(Duration::from_secs(60));
        drop(writer);
        assert!(receiver.join().unwrap() == expected);
    }

    #[test]
    fn closing_frees_a_writer_whose_reader_is_stuck() {
        let (reader, file) = place();
        let (writer, mut output) = Writer::start(file).unwrap();
        let guest = std::thread::spawn(move || {
            // More than the buffer and the socket hold: this blocks until the close.
            let chunk = [0; 4096];
            loop {
                if let Err(error) = output.write_all(&chunk) {
                    return error.kind();
                }
            }
        });
        writer.drain(Duration::from_millis(10));
        writer.close();
        assert_eq!(guest.join().unwrap(), io::ErrorKind::BrokenPipe);
        drop(reader);
    }
}
