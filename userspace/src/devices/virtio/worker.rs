// SPDX-License-Identifier: GPL-2.0-or-later

//! The thread in which a device serves its queues, from the moment the driver is ready until it
//! resets the device or the run ends.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::buffers::Request;
use super::VirtioDevice;
use crate::message::say;
use crate::sync::lock;

/// How a worker reaches its driver.
pub trait Interrupt: Send + Sync {
    /// Buffers of `queue` were used.
    fn used(&self, queue: usize);
    /// The device cannot go on until it is reset.
    fn needs_reset(&self);
}

/// One queue and what notifies the device of it.
pub struct Input {
    pub queue: Queue,
    pub event: Arc<EventFd>,
}

/// A running worker. Dropping it stops the thread, after the request under way.
pub struct Worker {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

struct Stop {
    event: EventFd,
    requested: AtomicBool,
}

struct Service<D: ?Sized> {
    memory: GuestMemoryMmap,
    interrupt: Arc<dyn Interrupt>,
    stop: Arc<Stop>,
    device: Arc<Mutex<D>>,
}

/// A queue cannot be used any further: the driver broke it.
#[derive(Debug, PartialEq, Eq)]
struct Broken;

impl Worker {
    /// Starts serving.
    ///
    /// # Errors
    ///
    /// When the system has no thread or eventfd left.
    pub fn start<D: VirtioDevice>(
        name: &str,
        device: Arc<Mutex<D>>,
        inputs: Vec<Option<Input>>,
        memory: GuestMemoryMmap,
        interrupt: Arc<dyn Interrupt>,
    ) -> Result<Self> {
        let stop = Arc::new(Stop {
            event: EventFd::new(EFD_NONBLOCK).context("cannot make an eventfd")?,
            requested: AtomicBool::new(false),
        });
        let context = Service {
            memory,
            interrupt,
            stop: stop.clone(),
            device,
        };
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || context.run(inputs))
            .context("cannot start a thread for a device")?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.requested.store(true, Ordering::SeqCst);
        // Nonblocking; a counter that is full wakes the thread too.
        let _ = self.stop.event.write(1);
        if let Some(thread) = self.thread.take() {
            // A panic would have ended the process.
            let _ = thread.join();
        }
    }
}

fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the event keeps its descriptor open for as long as it is borrowed here.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

impl<D: VirtioDevice> Service<D> {
    fn stopping(&self) -> bool {
        self.stop.requested.load(Ordering::SeqCst)
    }

    fn run(self, mut inputs: Vec<Option<Input>>) {
        // A driver may have filled a queue before it said that it is ready.
        for (index, input) in inputs.iter_mut().enumerate() {
            self.serve_or_break(index, input);
        }
        while !self.stopping() {
            for index in self.wait(&inputs) {
                if let Some(slot) = inputs.get_mut(index) {
                    self.serve_or_break(index, slot);
                }
            }
        }
    }

    /// Waits for notifications and returns the queues they are for.
    fn wait(&self, inputs: &[Option<Input>]) -> Vec<usize> {
        let alive = || {
            inputs
                .iter()
                .enumerate()
                .filter_map(|(index, slot)| Some((index, slot.as_ref()?)))
        };
        let mut fds = vec![PollFd::new(borrow(&self.stop.event), PollFlags::POLLIN)];
        fds.extend(alive().map(|(_, input)| PollFd::new(borrow(&input.event), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => {
                say!("a device cannot wait for its queues: {error}");
                self.stop.requested.store(true, Ordering::SeqCst);
                self.interrupt.needs_reset();
            }
        }
        fds.iter()
            .skip(1)
            .zip(alive())
            .filter(|(fd, _)| fd.revents().is_some_and(|events| !events.is_empty()))
            .map(|(_, (index, input))| {
                // Nonblocking; what counts is that it is zero before the queue is looked at.
                let _ = input.event.read();
                index
            })
            .collect()
    }

    fn serve_or_break(&self, index: usize, slot: &mut Option<Input>) {
        let Some(input) = slot else {
            return;
        };
        if self.serve_all(index, &mut input.queue).is_err() {
            *slot = None;
            self.interrupt.needs_reset();
        }
    }

    /// Serves all requests in a queue.
    fn serve_all(&self, index: usize, queue: &mut Queue) -> Result<(), Broken> {
        let memory = &self.memory;
        let mut fruitless = 0;
        loop {
            queue.disable_notification(memory).map_err(|_| Broken)?;
            let mut progress = false;
            while !self.stopping() && self.serve_one(index, queue)? {
                progress = true;
            }
            if progress && queue.needs_notification(memory).map_err(|_| Broken)? {
                self.interrupt.used(index);
            }
            let more = queue.enable_notification(memory).map_err(|_| Broken)?;
            if !more || self.stopping() {
                return Ok(());
            }
            // A request may have come in between; twice there is said to be one that cannot be
            // taken means that there is none.
            fruitless = if progress { 0 } else { fruitless + 1 };
            if fruitless > 1 {
                return Err(Broken);
            }
        }
    }

    /// Serves the next request; says whether there was one.
    fn serve_one(&self, index: usize, queue: &mut Queue) -> Result<bool, Broken> {
        let memory = &self.memory;
        let Some(chain) = queue.iter(memory).map_err(|_| Broken)?.next() else {
            return Ok(false);
        };
        let head = chain.head_index();
        // What cannot be understood is given back untouched.
        let written = Request::new(memory, chain).map_or(0, |request| {
            lock(&self.device).serve(index, request, memory)
        });
        queue.add_used(memory, head, written).map_err(|_| Broken)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;
    use std::sync::mpsc::{channel, Receiver, Sender};
    use std::time::Duration;
    use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
    use vm_memory::{Bytes, GuestAddress};

    const LIMIT: Duration = Duration::from_secs(60);
    const DESCRIPTORS: u64 = 0x1000;
    const AVAILABLE: u64 = 0x2000;
    const USED: u64 = 0x3000;
    const BUFFER: u64 = 0x8000;
    const SIZE: u16 = 16;

    struct Signals(Mutex<Sender<Option<usize>>>);

    impl Interrupt for Signals {
        fn used(&self, queue: usize) {
            self.0.lock().unwrap().send(Some(queue)).unwrap();
        }
        fn needs_reset(&self) {
            self.0.lock().unwrap().send(None).unwrap();
        }
    }

    /// A driver's side of one queue.
    struct Driver {
        memory: GuestMemoryMmap,
        event: Arc<EventFd>,
        signals: Receiver<Option<usize>>,
        worker: Worker,
    }

    impl Driver {
        fn new(prepare: impl FnOnce(&GuestMemoryMmap)) -> Self {
            let memory = super::super::buffers::tests::memory();
            prepare(&memory);
            let mut queue = Queue::new(SIZE).unwrap();
            queue.set_size(SIZE);
            queue.set_desc_table_address(Some(DESCRIPTORS as u32), Some(0));
            queue.set_avail_ring_address(Some(AVAILABLE as u32), Some(0));
            queue.set_used_ring_address(Some(USED as u32), Some(0));
            queue.set_ready(true);
            assert!(queue.is_valid(&memory));
            let event = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
            let (sender, signals) = channel();
            let inputs = vec![Some(Input {
                queue,
                event: event.clone(),
            })];
            let interrupt = Arc::new(Signals(Mutex::new(sender)));
            let worker = Worker::start(
                "test",
                Arc::new(Mutex::new(Rng)),
                inputs,
                memory.clone(),
                interrupt,
            )
            .unwrap();
            Self {
                memory,
                event,
                signals,
                worker,
            }
        }

        fn used(&self) -> u16 {
            self.memory.read_obj(GuestAddress(USED + 2)).unwrap()
        }
    }

    fn descriptor(
        memory: &GuestMemoryMmap,
        index: u64,
        address: u64,
        length: u32,
        flags: u32,
        next: u16,
    ) {
        let at = |offset| GuestAddress(DESCRIPTORS + index * 16 + offset);
        memory.write_obj(address, at(0)).unwrap();
        memory.write_obj(length, at(8)).unwrap();
        memory.write_obj(flags as u16, at(12)).unwrap();
        memory.write_obj(next, at(14)).unwrap();
    }

    fn offer(memory: &GuestMemoryMmap, slot: u16, head: u16) {
        memory
            .write_obj(
                head,
                GuestAddress(AVAILABLE + 4 + u64::from(slot % SIZE) * 2),
            )
            .unwrap();
        memory
            .write_obj(slot + 1, GuestAddress(AVAILABLE + 2))
            .unwrap();
    }

    #[test]
    fn requests_are_served_and_signalled() {
        let driver = Driver::new(|memory| {
            descriptor(memory, 0, BUFFER, 64, VRING_DESC_F_WRITE, 0);
            offer(memory, 0, 0);
        });
        assert_eq!(
            driver.signals.recv_timeout(LIMIT),
            Ok(Some(0)),
            "offered before the start"
        );
        descriptor(&driver.memory, 1, BUFFER, 32, VRING_DESC_F_WRITE, 0);
        offer(&driver.memory, 1, 1);
        driver.event.write(1).unwrap();
        assert_eq!(driver.signals.recv_timeout(LIMIT), Ok(Some(0)));
        assert_eq!(driver.used(), 2);
        let length: u32 = driver
            .memory
            .read_obj(GuestAddress(USED + 4 + 8 + 4))
            .unwrap();
        assert_eq!(length, 32);
    }

    #[test]
    fn hostile_chains_come_back_unused() {
        let driver = Driver::new(|memory| {
            // A loop, a buffer outside memory, a buffer to read behind one to write.
            descriptor(memory, 0, BUFFER, 8, VRING_DESC_F_NEXT, 0);
            descriptor(memory, 1, 1 << 40, 8, VRING_DESC_F_WRITE, 0);
            descriptor(
                memory,
                2,
                BUFFER,
                8,
                VRING_DESC_F_WRITE | VRING_DESC_F_NEXT,
                3,
            );
            descriptor(memory, 3, BUFFER, 8, 0, 0);
            for head in 0..3 {
                offer(memory, head, head);
            }
        });
        assert_eq!(driver.signals.recv_timeout(LIMIT), Ok(Some(0)));
        assert_eq!(driver.used(), 3);
        for index in 0..3 {
            let length: u32 = driver
                .memory
                .read_obj(GuestAddress(USED + 4 + index * 8 + 4))
                .unwrap();
            assert_eq!(length, 0);
        }
    }

    #[test]
    fn impossible_index_breaks_the_queue_and_nothing_else() {
        let driver = Driver::new(|memory| {
            memory
                .write_obj(SIZE * 2, GuestAddress(AVAILABLE + 2))
                .unwrap();
        });
        assert_eq!(driver.signals.recv_timeout(LIMIT), Ok(None));
        driver.event.write(1).unwrap();
        drop(driver.worker);
        assert!(driver.signals.try_recv().is_err());
    }

    #[test]
    fn dropping_stops_an_idle_worker() {
        let driver = Driver::new(|_| ());
        drop(driver.worker);
        assert!(driver.signals.recv().is_err(), "nobody is left to signal");
    }
}
