// SPDX-License-Identifier: GPL-2.0

//! The GSI routing table (API document, KVM_SET_GSI_ROUTING): which pins or
//! messages a GSI stands for.
//!
//! Routes live in memory of the caller, who fills it with
//! [`Route::from_abi`], then calls [`prepare`] once. [`Routes`] is a view of a
//! prepared table.

use super::msi::DestFormat;
use super::{LineStatus, Message};
use crate::pc::lapic::VectorSet;
use crate::uapi::{
    kvm_irq_routing_entry, KVM_IOAPIC_NUM_PINS, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI,
};

/// Number of GSIs, and the greatest number of routes KVM_SET_GSI_ROUTING
/// takes (KVM_CAP_IRQ_ROUTING).
pub const MAX_ROUTES: u32 = 4096;
/// Number of pins of one 8259.
const PIC_PINS: u32 = 8;
/// Low bits of an MSI's high address that 32-bit ids leave reserved.
const ADDRESS_HI_RESERVED: u32 = 0xff;

/// Where one GSI leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Input 0..16 of the pair of PICs.
    Pic {
        /// IRQ number; 8 and above are the slave's.
        irq: u8,
    },
    /// An input of the I/O APIC.
    IoApic {
        /// Pin 0..24.
        pin: u8,
    },
    /// A message.
    Msi {
        /// Low half of the address.
        address_lo: u32,
        /// High half of the address.
        address_hi: u32,
        /// Data.
        data: u32,
    },
}

impl Target {
    /// The message of an MSI route.
    #[inline]
    pub const fn message(&self, format: DestFormat) -> Option<Message> {
        match *self {
            Self::Msi {
                address_lo,
                address_hi,
                data,
            } => Some(Message::from_msi(address_lo, address_hi, data, format)),
            Self::Pic { .. } | Self::IoApic { .. } => None,
        }
    }

    /// Rank among the targets of one GSI; also its kind.
    const fn rank(&self) -> u8 {
        match *self {
            Self::IoApic { .. } => 0,
            Self::Pic { irq } if irq < PIC_PINS as u8 => 1,
            Self::Pic { .. } => 2,
            Self::Msi { .. } => 3,
        }
    }
}

/// One entry of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The GSI.
    pub gsi: u32,
    /// Where it leads.
    pub target: Target,
}

/// The table cannot be had: KVM_SET_GSI_ROUTING returns EINVAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidRoute;

/// What the VM has, which decides which routes are valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteRules {
    /// PICs and I/O APIC are in the kernel (KVM_CREATE_IRQCHIP).
    pub full_irqchip: bool,
    /// Destinations of MSIs.
    pub format: DestFormat,
}

/// Whether the high half of an MSI's address is one that
/// KVM_SET_GSI_ROUTING and KVM_SIGNAL_MSI accept.
pub const fn is_valid_address_hi(address_hi: u32, format: DestFormat) -> bool {
    !matches!(format, DestFormat::Bits32) || address_hi & ADDRESS_HI_RESERVED == 0
}

impl Route {
    /// Checks and converts an entry of the ABI.
    ///
    /// # Errors
    ///
    /// [`InvalidRoute`] if GSI or pin are out of range, flags are set, or the
    /// VM has no such target.
    pub fn from_abi(
        entry: &kvm_irq_routing_entry,
        rules: RouteRules,
    ) -> Result<Self, InvalidRoute> {
        if entry.gsi >= MAX_ROUTES || entry.flags != 0 {
            return Err(InvalidRoute);
        }
        let target = match entry.type_ {
            KVM_IRQ_ROUTING_IRQCHIP if rules.full_irqchip => {
                let route = entry.u.irqchip();
                chip_pin(route.irqchip, route.pin).ok_or(InvalidRoute)?
            }
            KVM_IRQ_ROUTING_MSI => {
                let route = entry.u.msi();
                if !is_valid_address_hi(route.address_hi, rules.format) {
                    return Err(InvalidRoute);
                }
                Target::Msi {
                    address_lo: route.address_lo,
                    address_hi: route.address_hi,
                    data: route.data,
                }
            }
            _ => return Err(InvalidRoute),
        };
        Ok(Self {
            gsi: entry.gsi,
            target,
        })
    }

    const fn key(&self) -> u32 {
        // A GSI is below 4096, so the shift loses nothing.
        self.gsi << 2 | self.target.rank() as u32
    }
}

const fn chip_pin(chip: u32, pin: u32) -> Option<Target> {
    match chip {
        KVM_IRQCHIP_PIC_MASTER if pin < PIC_PINS => Some(Target::Pic { irq: pin as u8 }),
        KVM_IRQCHIP_PIC_SLAVE if pin < PIC_PINS => Some(Target::Pic {
            irq: (pin + PIC_PINS) as u8,
        }),
        KVM_IRQCHIP_IOAPIC if pin < KVM_IOAPIC_NUM_PINS as u32 => {
            Some(Target::IoApic { pin: pin as u8 })
        }
        _ => None,
    }
}

/// Number of routes of the default table.
pub const DEFAULT_ROUTES: usize = 40;

/// Route `index` of the table a full irqchip starts with, in the order of
/// [`Routes`]: GSI n leads to I/O APIC pin n, GSIs below 16 to the PICs too.
/// (GSI 0 leads to pin 0; VMMs that want the timer at pin 2 say so.)
/// `None` from [`DEFAULT_ROUTES`] on.
pub const fn default_route(index: usize) -> Option<Route> {
    const BOTH: usize = 32;
    if index >= DEFAULT_ROUTES {
        return None;
    }
    let (gsi, target) = if index >= BOTH {
        let pin = (index - BOTH + 16) as u8;
        (pin, Target::IoApic { pin })
    } else {
        let pin = (index / 2) as u8;
        match index % 2 {
            0 => (pin, Target::IoApic { pin }),
            _ => (pin, Target::Pic { irq: pin }),
        }
    };
    Some(Route {
        gsi: gsi as u32,
        target,
    })
}

/// Sorts the table and checks it as a whole.
///
/// # Errors
///
/// [`InvalidRoute`] if a GSI leads to one controller twice, or to an MSI and
/// anything else.
pub fn prepare(routes: &mut [Route]) -> Result<Routes<'_>, InvalidRoute> {
    heap_sort(routes);
    for pair in routes.windows(2) {
        let [a, b] = pair else { continue };
        if a.gsi != b.gsi {
            continue;
        }
        let to_message = matches!(b.target, Target::Msi { .. });
        if to_message || a.target.rank() == b.target.rank() {
            return Err(InvalidRoute);
        }
    }
    Ok(Routes { routes })
}

/// Sorts in place in O(n log n) steps whatever the order was; `core`'s sort
/// can panic.
fn heap_sort(routes: &mut [Route]) {
    let len = routes.len();
    for root in (0..len / 2).rev() {
        sift_down(routes, root);
    }
    for end in (1..len).rev() {
        swap(routes, 0, end);
        if let Some(heap) = routes.get_mut(..end) {
            sift_down(heap, 0);
        }
    }
}

fn sift_down(heap: &mut [Route], mut root: usize) {
    let key = |heap: &[Route], index: usize| heap.get(index).map(Route::key);
    // The root at least doubles each time, so this ends.
    loop {
        let left = root.saturating_mul(2).saturating_add(1);
        let right = left.saturating_add(1);
        let child = if key(heap, right) > key(heap, left) {
            right
        } else {
            left
        };
        if key(heap, child) <= key(heap, root) {
            return;
        }
        swap(heap, root, child);
        root = child;
    }
}

fn swap(routes: &mut [Route], low: usize, high: usize) {
    let Some((head, tail)) = routes.split_at_mut_checked(high) else {
        return;
    };
    if let (Some(a), Some(b)) = (head.get_mut(low), tail.first_mut()) {
        core::mem::swap(a, b);
    }
}

/// A table that went through [`prepare`].
///
/// # Invariants
///
/// `routes` is sorted by GSI.
#[derive(Clone, Copy, Debug)]
pub struct Routes<'a> {
    routes: &'a [Route],
}

impl<'a> Routes<'a> {
    /// The view of `routes`, which an earlier [`prepare`] returned without
    /// error. On other tables lookups find nothing or too little.
    #[inline]
    pub const fn from_prepared(routes: &'a [Route]) -> Self {
        Self { routes }
    }

    /// Index of the first route whose GSI is not below `gsi`. (`core` has
    /// this, with an overflow check that can panic as far as one can tell.)
    #[inline]
    fn first_from(&self, gsi: u32) -> usize {
        let (mut low, mut high) = (0, self.routes.len());
        // The distance shrinks each time, so this ends.
        while low < high {
            let middle = low.wrapping_add(high.wrapping_sub(low) / 2);
            match self.routes.get(middle) {
                Some(route) if route.gsi < gsi => low = middle.wrapping_add(1),
                _ => high = middle,
            }
        }
        low
    }

    /// The targets of `gsi`, at most three.
    #[inline]
    pub fn lookup(&self, gsi: u32) -> &'a [Route] {
        let (start, end) = (self.first_from(gsi), self.first_from(gsi.saturating_add(1)));
        self.routes.get(start..end).unwrap_or(&[])
    }

    /// The GSI that leads to `target`'s pin, for acknowledge notifications.
    pub fn gsi_of_pin(&self, target: Target) -> Option<u32> {
        let mut routes = self.routes.iter();
        routes
            .find(|route| route.target == target)
            .map(|route| route.gsi)
    }

    /// With a split irqchip: the vectors whose EOI userspace wants to see
    /// (KVM_EXIT_IOAPIC_EOI), which are those of level-triggered messages
    /// among the GSIs below `reserved`, the pins of its I/O APIC.
    pub fn eoi_exit_vectors(&self, reserved: u32, format: DestFormat) -> VectorSet {
        let mut vectors = VectorSet::EMPTY;
        let mut pins = self.routes.iter().take_while(|route| route.gsi < reserved);
        for message in pins.by_ref().filter_map(|r| r.target.message(format)) {
            if message.level_triggered {
                vectors.insert(message.vector);
            }
        }
        vectors
    }

    /// Calls `set` for each target of `gsi` and merges what they report.
    #[inline]
    pub fn raise(&self, gsi: u32, mut set: impl FnMut(&Target) -> LineStatus) -> LineStatus {
        self.lookup(gsi)
            .iter()
            .fold(LineStatus::Ignored, |status, route| {
                status.merge(set(&route.target))
            })
    }
}
