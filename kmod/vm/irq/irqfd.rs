// SPDX-License-Identifier: GPL-2.0

//! KVM_IRQFD: eventfds that raise interrupts (KVM API document, 4.75).
//!
//! An eventfd's callback runs under the eventfd's lock with interrupts off,
//! wherever the signal comes from, and raises the GSI there and then.

use super::Interrupts;
use super::Source;
use crate::host::eventfd::EventCallback;
use crate::host::eventfd::EventFd;
use crate::host::eventfd::EventHook;
use crate::hw::Vendor;
use crate::uapi::kvm_irqfd;
use crate::uapi::KVM_IRQFD_FLAG_DEASSIGN;
use crate::uapi::KVM_IRQFD_FLAG_RESAMPLE;
use crate::vm::Vm;
use core::pin::Pin;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;

/// What a signal does.
struct Trigger {
    interrupts: Arc<Interrupts>,
    gsi: u32,
    /// The line stays up until the guest has completed the interrupt.
    holds: bool,
}

impl EventCallback for Trigger {
    fn signalled(&self) {
        let _ = if self.holds {
            self.interrupts.raise(self.gsi, true, Source::Resample)
        } else {
            self.interrupts.pulse(self.gsi, Source::User)
        };
    }
}

/// One irqfd.
struct IrqFd {
    hook: EventHook<Trigger>,
    resample: Option<Arc<EventFd>>,
}

impl IrqFd {
    fn is(&self, event: &EventFd, gsi: u32) -> bool {
        self.hook.is_on(event) && self.hook.gsi == gsi
    }
}

/// The irqfds of a VM.
///
/// Lock order: this mutex, then that for changes of the routing.
pub struct IrqFds {
    list: Pin<KBox<Mutex<KVVec<IrqFd>>>>,
}

impl IrqFds {
    /// None yet. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        Ok(Self {
            list: KBox::pin_init(new_mutex!(KVVec::new(), "kvm irqfds"), GFP_KERNEL_ACCOUNT)?,
        })
    }

    fn assign(&self, interrupts: &Arc<Interrupts>, args: &kvm_irqfd) -> Result {
        let fd = args.fd as i32;
        let resample = args.flags & KVM_IRQFD_FLAG_RESAMPLE != 0;
        if resample && interrupts.controllers.is_none() {
            return Err(EINVAL);
        }
        // Said before anything about the resamplefd.
        drop(EventFd::from_fd(fd)?);
        let resample = match resample {
            true => {
                let event = EventFd::from_fd(args.resamplefd as i32)?;
                Some(Arc::new(event, GFP_KERNEL_ACCOUNT)?)
            }
            false => None,
        };
        let mut list = self.list.lock();
        sweep(&mut list);
        list.reserve(1, GFP_KERNEL_ACCOUNT)?;
        if let Some(event) = &resample {
            interrupts.add_resampler(args.gsi, event.clone())?;
        }
        let trigger = Trigger {
            interrupts: interrupts.clone(),
            gsi: args.gsi,
            holds: resample.is_some(),
        };
        let hook = match EventHook::new(fd, trigger) {
            Ok(hook) => hook,
            Err(error) => {
                if let Some(event) = &resample {
                    interrupts.remove_resampler(event)?;
                }
                return Err(error);
            }
        };
        list.push(IrqFd { hook, resample }, GFP_KERNEL_ACCOUNT)?;
        Ok(())
    }

    fn deassign(&self, args: &kvm_irqfd) -> Result {
        let event = EventFd::from_fd(args.fd as i32)?;
        let mut list = self.list.lock();
        sweep(&mut list);
        remove(&mut list, |irqfd| irqfd.is(&event, args.gsi))
    }

    /// Forgets eventfds that nobody has open any more. May sleep.
    pub fn sweep(&self) {
        sweep(&mut self.list.lock());
    }

    /// Forgets all of them: no callback runs after this. May sleep.
    pub fn clear(&self) {
        // What cannot be taken out for want of memory goes with the VM.
        let mut list = self.list.lock();
        let _ = remove(&mut list, |_| true);
        drop(core::mem::take(&mut *list));
    }
}

fn sweep(list: &mut KVVec<IrqFd>) {
    // Tried again next time.
    let _ = remove(list, |irqfd| irqfd.hook.is_closed());
}

/// Removes irqfds; their callbacks have returned and are not called again.
fn remove(list: &mut KVVec<IrqFd>, unwanted: impl Fn(&IrqFd) -> bool) -> Result {
    let mut result = Ok(());
    // Backwards: what is taken from the end costs nothing.
    for index in (0..list.len()).rev() {
        match list.get(index) {
            Some(irqfd) if unwanted(irqfd) => {}
            _ => continue,
        }
        let removed = remove_at(list, index);
        if removed.is_err() {
            result = removed;
        }
    }
    result
}

fn remove_at(list: &mut KVVec<IrqFd>, index: usize) -> Result {
    let irqfd = list.get(index).ok_or(ENOENT)?;
    let interrupts = irqfd.hook.interrupts.clone();
    let gsi = irqfd.hook.gsi;
    let resample = irqfd.resample.clone();
    if let Some(event) = &resample {
        interrupts.remove_resampler(event)?;
    }
    drop(list.remove(index).map_err(|_| ENOENT)?);
    if resample.is_some() {
        interrupts.release_line(gsi);
    }
    Ok(())
}

impl<V: Vendor> Vm<V> {
    /// KVM_IRQFD.
    ///
    /// # Errors
    ///
    /// `EINVAL` for unknown flags, without interrupt controllers (for
    /// resamplefds: without those in the module), or when it is no eventfd;
    /// `EBADF`; `EBUSY` when the eventfd has an irqfd already; `ENOMEM`.
    pub fn irqfd(&self, args: &kvm_irqfd) -> Result {
        if args.flags & !(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE) != 0 {
            return Err(EINVAL);
        }
        let deassign = args.flags & KVM_IRQFD_FLAG_DEASSIGN != 0;
        match self.chip.irqfds() {
            Some((irqfds, _)) if deassign => irqfds.deassign(args),
            Some((irqfds, interrupts)) => irqfds.assign(interrupts, args),
            None if deassign => EventFd::from_fd(args.fd as i32).map(drop),
            None => Err(EINVAL),
        }
    }
}
