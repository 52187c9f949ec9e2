// SPDX-License-Identifier: GPL-2.0

//! KVM_IOEVENTFD: writes that signal an eventfd (KVM API document, 4.59).

use super::Bus;
use super::Devices;
use crate::host::eventfd::EventFd;
use crate::hw::Vendor;
use crate::uapi::kvm_ioeventfd;
use crate::uapi::KVM_IOEVENTFD_FLAG_DATAMATCH;
use crate::uapi::KVM_IOEVENTFD_FLAG_DEASSIGN;
use crate::uapi::KVM_IOEVENTFD_FLAG_PIO;
use crate::uapi::KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY;
use crate::uapi::KVM_IOEVENTFD_VALID_FLAG_MASK;
use crate::vm::Vm;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Most of them in one address space: a change copies the table.
const MAX_EVENTS: usize = 1 << 16;

/// What is written where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Trigger {
    address: u64,
    /// In bytes; 0 for any.
    len: u32,
    /// The value, if not any.
    data: Option<u64>,
}

impl Trigger {
    fn from_abi(args: &kvm_ioeventfd) -> Self {
        let matches = args.flags & KVM_IOEVENTFD_FLAG_DATAMATCH != 0;
        Self {
            address: args.addr,
            len: args.len,
            data: matches.then_some(args.datamatch),
        }
    }

    /// Whether a write can be meant for both.
    fn collides(&self, other: &Self) -> bool {
        if self.address != other.address {
            return false;
        }
        if self.len == 0 || other.len == 0 {
            return true;
        }
        let same_data = self.data.is_none() || other.data.is_none() || self.data == other.data;
        self.len == other.len && same_data
    }

    #[inline]
    fn is_hit(&self, len: usize, value: u64) -> bool {
        if self.len == 0 {
            return true;
        }
        if self.len as usize != len {
            return false;
        }
        match self.data {
            None => true,
            Some(data) => {
                // Of the value asked for the bytes written count.
                let unused = 64u32.saturating_sub(self.len.saturating_mul(8));
                (data ^ value).checked_shl(unused).unwrap_or(0) == 0
            }
        }
    }
}

/// An eventfd and what signals it.
#[derive(Clone)]
pub(super) struct IoEvent {
    trigger: Trigger,
    event: Arc<EventFd>,
}

impl IoEvent {
    /// Signals the eventfd.
    pub(super) fn signal(&self) -> bool {
        // Refused in the callback of an eventfd only, where no guest runs.
        let _ = self.event.signal();
        true
    }
}

/// Number of events before `address`, in a table sorted by it.
fn first_at(events: &[IoEvent], address: u64) -> usize {
    // Not `partition_point`, which has a branch that panics.
    let mut begin = 0usize;
    let mut end = events.len();
    while begin < end {
        let middle = begin.wrapping_add(end.wrapping_sub(begin) / 2);
        match events.get(middle) {
            Some(event) if event.trigger.address < address => begin = middle.wrapping_add(1),
            _ => end = middle,
        }
    }
    begin
}

/// The eventfd that a write signals. `events` is sorted by address.
pub(super) fn find<'a>(events: &'a [IoEvent], address: u64, data: &[u8]) -> Option<&'a IoEvent> {
    let start = first_at(events, address);
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(data) {
        *to = *from;
    }
    let value = u64::from_le_bytes(bytes);
    events
        .get(start..)?
        .iter()
        .take_while(|event| event.trigger.address == address)
        .find(|event| event.trigger.is_hit(data.len(), value))
}

impl Devices {
    fn with_event(&self, new: IoEvent) -> Result<Self> {
        if self
            .events
            .iter()
            .any(|event| event.trigger.collides(&new.trigger))
        {
            return Err(EEXIST);
        }
        let room = self.events.len().saturating_add(1);
        if room > MAX_EVENTS {
            return Err(ENOSPC);
        }
        let place = first_at(&self.events, new.trigger.address);
        let mut events = KVVec::with_capacity(room, GFP_KERNEL_ACCOUNT)?;
        let (before, after) = self.events.split_at_checked(place).ok_or(EINVAL)?;
        events.extend_from_slice(before, GFP_KERNEL_ACCOUNT)?;
        events.push(new, GFP_KERNEL_ACCOUNT)?;
        events.extend_from_slice(after, GFP_KERNEL_ACCOUNT)?;
        self.with_events(events)
    }

    fn without_event(&self, trigger: &Trigger, event: &EventFd) -> Result<Self> {
        let unwanted = |known: &IoEvent| known.trigger == *trigger && *known.event == *event;
        let place = self.events.iter().position(unwanted).ok_or(ENOENT)?;
        let mut events = KVVec::with_capacity(self.events.len(), GFP_KERNEL_ACCOUNT)?;
        for (index, event) in self.events.iter().enumerate() {
            if index != place {
                events.push(event.clone(), GFP_KERNEL_ACCOUNT)?;
            }
        }
        self.with_events(events)
    }

    fn with_events(&self, events: KVVec<IoEvent>) -> Result<Self> {
        let mut zones = KVVec::with_capacity(self.zones.len(), GFP_KERNEL_ACCOUNT)?;
        zones.extend_from_slice(&self.zones, GFP_KERNEL_ACCOUNT)?;
        Ok(Self { events, zones })
    }
}

/// Whether the arguments are those of an eventfd to be assigned.
fn is_valid(args: &kvm_ioeventfd) -> bool {
    let length_fits = match args.len {
        0 => args.flags & KVM_IOEVENTFD_FLAG_DATAMATCH == 0,
        1 | 2 | 4 | 8 => true,
        _ => false,
    };
    length_fits
        && args.addr.checked_add(args.len.into()).is_some()
        && args.flags & !KVM_IOEVENTFD_VALID_FLAG_MASK == 0
}

impl Bus {
    fn assign(&self, args: &kvm_ioeventfd) -> Result {
        if !is_valid(args) {
            return Err(EINVAL);
        }
        let new = IoEvent {
            trigger: Trigger::from_abi(args),
            event: Arc::new(EventFd::from_fd(args.fd)?, GFP_KERNEL_ACCOUNT)?,
        };
        let space = self.space(args.flags & KVM_IOEVENTFD_FLAG_PIO != 0);
        self.change(space, |devices| devices.with_event(new).map(Some))
    }

    fn deassign(&self, args: &kvm_ioeventfd) -> Result {
        let event = EventFd::from_fd(args.fd)?;
        let trigger = Trigger::from_abi(args);
        let space = self.space(args.flags & KVM_IOEVENTFD_FLAG_PIO != 0);
        self.change(space, |devices| {
            devices.without_event(&trigger, &event).map(Some)
        })
    }
}

impl<V: Vendor> Vm<V> {
    /// KVM_IOEVENTFD.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a length, flags or a range that cannot be, or when it is no
    /// eventfd; `EBADF`; `EEXIST` when a write could be meant for another one,
    /// too; `ENOENT` when there is none to take away; `ENOSPC`, `ENOMEM`.
    pub fn ioeventfd(&self, args: &kvm_ioeventfd) -> Result {
        // The channel I/O of another architecture.
        if args.flags & KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY != 0 {
            return Err(EINVAL);
        }
        if args.flags & KVM_IOEVENTFD_FLAG_DEASSIGN != 0 {
            self.bus.deassign(args)
        } else {
            self.bus.assign(args)
        }
    }
}
