// SPDX-License-Identifier: GPL-2.0-or-later

//! Signals that take a thread out of `KVM_RUN`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crate::sys::{check, SysResult};

/// The signal used: it does nothing but interrupt.
pub const KICK: i32 = libc::SIGUSR1;

extern "C" fn nothing(_: i32) {}

/// Gives `signal` a handler that does nothing and does not restart system calls.
pub fn catch(signal: i32) -> SysResult<()> {
    // SAFETY: the structure is plain data; the handler has the right type and touches nothing.
    let r = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
        libc::sigaction(signal, &action, std::ptr::null_mut())
    };
    check("sigaction", i64::from(r)).map(drop)
}

/// This thread's number.
pub fn thread_id() -> i32 {
    // SAFETY: a system call without arguments.
    unsafe { libc::gettid() }
}

/// Sends `signal` to a thread of this process.
pub fn send(thread: i32, signal: i32) {
    // SAFETY: a system call on plain numbers. A thread that has ended needs no signal.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) };
}

/// Interrupts a thread again and again, until it is dropped.
pub struct Kicker {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Kicker {
    /// Interrupts the calling thread after `delay` and every 10 ms from then on.
    pub fn start(delay: Duration) -> SysResult<Self> {
        catch(KICK)?;
        let me = thread_id();
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            std::thread::park_timeout(delay);
            while !told.load(Ordering::Relaxed) {
                send(me, KICK);
                std::thread::park_timeout(Duration::from_millis(10));
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Kicker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // Its end is all that is wanted; a panic in it has no message for anyone.
            let _ = thread.join();
        }
    }
}

/// Interrupts the calling thread after `delay`, and every 10 ms from then on, so that a signal that
/// comes before the system call does not leave it without one, to the end of the process.
pub fn interrupt_after(delay: Duration) -> SysResult<()> {
    catch(KICK)?;
    let me = thread_id();
    std::thread::spawn(move || {
        std::thread::sleep(delay);
        loop {
            send(me, KICK);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    Ok(())
}
