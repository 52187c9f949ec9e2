// SPDX-License-Identifier: GPL-2.0-or-later

//! What each thread called last, in memory that outlives a round's process: when a round does not
//! end or the kernel complains, this is what it was about.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

use ironvm_abi_tests::harness::say;
use ironvm_abi_tests::ioctls;
use ironvm_abi_tests::sys::{Mapping, SysResult};

/// Threads there is room for.
pub const THREADS: usize = 64;
/// Calls kept of each.
const CALLS: usize = 8;
/// Words of a call: request, descriptor, argument, result.
const WORDS: usize = 4;

/// The result of a call that has not returned.
const INSIDE: u64 = u64::MAX / 2;

struct Trace {
    memory: Mapping,
    /// Each call is printed before it is made, for hosts that do not live to tell.
    aloud: bool,
}

static TRACE: OnceLock<Trace> = OnceLock::new();

thread_local! {
    static THREAD: Cell<usize> = const { Cell::new(0) };
    static NEXT: Cell<usize> = const { Cell::new(0) };
}

/// Begins to keep calls. With `aloud` each is also printed, before it is made.
pub fn begin(aloud: bool) -> SysResult<()> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let memory = Mapping::new(THREADS * CALLS * WORDS * 8, prot, flags, -1, 0)?;
    TRACE.get_or_init(|| Trace { memory, aloud });
    Ok(())
}

/// Says which thread of the round this one is.
pub fn this_thread_is(number: usize) {
    THREAD.set(number % THREADS);
}

/// Forgets what earlier rounds called.
pub fn forget() {
    if let Some(trace) = TRACE.get() {
        for word in 0..THREADS * CALLS * WORDS {
            trace.word(word).store(0, Ordering::Relaxed);
        }
    }
}

/// Makes a call that is kept.
pub fn keeping(fd: i32, request: u64, arg: u64, call: impl FnOnce() -> i32) -> i32 {
    let Some(trace) = TRACE.get() else {
        return call();
    };
    let (thread, turn) = (THREAD.get(), NEXT.get());
    NEXT.set((turn + 1) % CALLS);
    let first = (thread * CALLS + turn) * WORDS;
    let words = [request, fd as u64, arg, INSIDE];
    for (i, word) in words.into_iter().enumerate() {
        trace.word(first + i).store(word, Ordering::Relaxed);
    }
    if trace.aloud {
        say(format_args!("thread {thread}: {}", told(words)));
    }
    let result = call();
    trace
        .word(first + 3)
        .store(result as i64 as u64, Ordering::Relaxed);
    result
}

/// Prints the last calls of each thread, those first that have not returned.
pub fn show() {
    let Some(trace) = TRACE.get() else { return };
    for inside in [true, false] {
        for thread in 0..THREADS {
            for turn in 0..CALLS {
                let first = (thread * CALLS + turn) * WORDS;
                let words = [0, 1, 2, 3].map(|i| trace.word(first + i).load(Ordering::Relaxed));
                if words[0] != 0 && (words[3] == INSIDE) == inside {
                    say(format_args!("  thread {thread}: {}", told(words)));
                }
            }
        }
    }
}

impl Trace {
    fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: in bounds by `at`; atomics need no more than alignment.
        unsafe { &*self.memory.at::<AtomicU64>(8 * index) }
    }
}

fn told([request, fd, arg, result]: [u64; WORDS]) -> String {
    let all = [ioctls::SYSTEM, ioctls::VM, ioctls::VCPU, ioctls::DEVICE];
    let name = all
        .iter()
        .flat_map(|calls| calls.iter())
        .find(|call| call.1 == request)
        .map_or_else(|| format!("{request:#x}"), |call| call.0.to_string());
    let result = match result {
        INSIDE => String::from("inside"),
        number => format!("{}", number as i64),
    };
    format!("{name}({}, {arg:#x}): {result}", fd as i32)
}
