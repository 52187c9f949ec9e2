// SPDX-License-Identifier: GPL-2.0

//! Which MSRs the guest may access: KVM_X86_SET_MSR_FILTER (KVM API document,
//! 4.97).

use super::request::Request;
use super::Vm;
use crate::host::sync::Srcu;
use crate::host::sync::SrcuCell;
use crate::host::user::UserPtr;
use crate::hw::Vendor;
use crate::pc::msr::filter;
use crate::pc::msr::filter::Direction;
use crate::pc::msr::filter::Range;
use crate::uapi::kvm_msr_filter;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::sync::Arc;

/// A filter: ranges, and what holds outside them.
#[derive(Default)]
struct Rules {
    default_allows: bool,
    ranges: KVec<Range<KVec<u8>>>,
}

/// The filter of one VM.
pub struct MsrFilter {
    /// Whether there is one: without it nothing else is looked at.
    active: AtomicBool,
    domain: Arc<Srcu>,
    rules: SrcuCell<Rules>,
}

impl MsrFilter {
    /// No filter: everything is allowed.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        let domain = Arc::new(Srcu::new()?, GFP_KERNEL)?;
        let rules = KBox::new(Rules::default(), GFP_KERNEL)?;
        Ok(Self {
            active: AtomicBool::new(false),
            rules: SrcuCell::new(domain.clone(), rules),
            domain,
        })
    }

    fn allows(&self, index: u32, direction: Direction) -> bool {
        let guard = self.domain.read();
        let rules = self.rules.load(&guard);
        filter::allows(rules.default_allows, &rules.ranges, index, direction)
    }
}

impl<V: Vendor> Vm<V> {
    /// Whether userspace wants to decide on accesses to MSRs, also to those that
    /// need no exit otherwise.
    #[inline]
    pub fn watches_msrs(&self) -> bool {
        self.msr_filter.active.load(Ordering::Relaxed) | (self.settings.user_msr() != 0)
    }

    /// Whether the guest may access the MSR.
    #[inline]
    pub fn allows_msr(&self, index: u32, direction: Direction) -> bool {
        !self.msr_filter.active.load(Ordering::Relaxed) || self.msr_filter.allows(index, direction)
    }

    /// KVM_X86_SET_MSR_FILTER.
    ///
    /// # Errors
    ///
    /// `EINVAL` for unknown flags, ranges that are too large, and a filter that
    /// denies everything; `EFAULT`, `ENOMEM`.
    pub fn set_msr_filter(&self, request: &kvm_msr_filter) -> Result {
        let errno = |errno: i32| Error::from_errno(-errno);
        let mut rules = Rules {
            default_allows: filter::check(request).map_err(errno)?,
            ranges: KVec::new(),
        };
        for range in &request.ranges {
            let Some(bytes) = filter::bitmap_bytes(range).map_err(errno)? else {
                continue;
            };
            let mut bitmap = KVec::with_capacity(bytes, GFP_KERNEL_ACCOUNT)?;
            bitmap.resize(bytes, 0u8, GFP_KERNEL_ACCOUNT)?;
            UserPtr::new(range.bitmap).read_bytes(&mut bitmap)?;
            rules.ranges.push(
                Range {
                    flags: range.flags,
                    base: range.base,
                    count: range.nmsrs,
                    bitmap,
                },
                GFP_KERNEL_ACCOUNT,
            )?;
        }
        let active = !rules.default_allows || !rules.ranges.is_empty();
        let _creation = self.creation.lock();
        self.msr_filter
            .rules
            .replace(KBox::new(rules, GFP_KERNEL_ACCOUNT)?)?;
        self.msr_filter.active.store(active, Ordering::Release);
        self.vcpus.request_all(Request::MSR_EXITS);
        Ok(())
    }
}
