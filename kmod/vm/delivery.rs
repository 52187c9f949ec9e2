// SPDX-License-Identifier: GPL-2.0

//! Interrupt messages on their way to vCPUs: MSIs, I/O APIC messages and IPIs.
//!
//! Context: any, hard interrupts too. No locks: a message is matched against
//! what each local APIC has published, posted, and the vCPU kicked.

use super::settings::Settings;
use super::table::VcpuTable;
use super::vcpu::VcpuShared;
use crate::pc::irq::dest;
use crate::pc::irq::dest::Arbiter;
use crate::pc::irq::dest::Rules;
use crate::pc::irq::pv_ipi::PvIpi;
use crate::pc::irq::DestMode;
use crate::pc::irq::IpiRequest;
use crate::pc::irq::LineStatus;
use crate::pc::irq::Message;
use crate::pc::irq::Shorthand;
use crate::pc::lapic::Posted;

impl VcpuTable {
    /// Delivers a message of a device.
    pub fn deliver(&self, message: &Message, settings: &Settings) -> LineStatus {
        let rules = Rules {
            broadcast_quirk: !settings.x2apic_no_broadcast(),
        };
        self.deliver_matching(message, rules, None)
    }

    /// Sends an IPI of the vCPU `sender`.
    pub fn send_ipi(&self, request: &IpiRequest, sender: &VcpuShared) {
        let message = &request.message;
        if message.is_deassert() {
            return;
        }
        match request.shorthand {
            Shorthand::Myself => {
                let _ = hand_over(sender, message);
            }
            Shorthand::AllButSelf => {
                let _ = self.deliver_matching(message, Rules::default(), Some(sender.index));
            }
            Shorthand::None | Shorthand::All => {
                let _ = self.deliver_matching(message, Rules::default(), None);
            }
        }
    }

    /// KVM_HC_SEND_IPI; gives the number of vCPUs it went to. Interrupts may be
    /// off: at most one look at each id and one at each vCPU.
    pub fn send_pv_ipi(&self, request: PvIpi) -> u64 {
        let message = request.message();
        let send = |vcpu: &VcpuShared| u64::from(accepted(hand_over(vcpu, &message)));
        let mut count: u64 = 0;
        let mut left = request;
        // An id is its vCPU's place in the table, unless VMM or guest have
        // numbered them otherwise.
        for id in request {
            let at_place = self.get(id as usize);
            if let Some(vcpu) = at_place.filter(|vcpu| dest::is_id(id, &vcpu.apic.snapshot())) {
                left.remove(id);
                count = count.wrapping_add(send(vcpu));
            }
        }
        for vcpu in self.iter() {
            if left.is_empty() {
                break;
            }
            for id in dest::ids(&vcpu.apic.snapshot()) {
                if left.remove(id) {
                    count = count.wrapping_add(send(vcpu));
                }
            }
        }
        count
    }

    /// The vCPU whose local APIC has this id. The id is the vCPU's own unless
    /// the guest has changed it.
    pub fn by_apic_id(&self, id: u32) -> Option<&VcpuShared> {
        if let Some(vcpu) = self.by_id(id) {
            if dest::is_id(id, &vcpu.apic.snapshot()) {
                return Some(vcpu);
            }
        }
        self.iter()
            .map(|vcpu| &**vcpu)
            .find(|vcpu| dest::is_id(id, &vcpu.apic.snapshot()))
    }

    fn deliver_matching(
        &self,
        message: &Message,
        rules: Rules,
        except: Option<usize>,
    ) -> LineStatus {
        // The usual case, without a look at every vCPU: one physical id.
        if message.dest_mode == DestMode::Physical && message.dest < 0xff && except.is_none() {
            if let Some(vcpu) = self.get(message.dest as usize) {
                if dest::matches(message, &vcpu.apic.snapshot(), rules) {
                    return status(hand_over(vcpu, message));
                }
            }
        }
        if message.is_redirectable() {
            return self.deliver_to_one(message, rules, except);
        }
        let mut result = LineStatus::Ignored;
        for vcpu in self.iter().filter(|vcpu| Some(vcpu.index) != except) {
            if dest::matches(message, &vcpu.apic.snapshot(), rules) {
                result = result.merge(status(hand_over(vcpu, message)));
            }
        }
        result
    }

    fn deliver_to_one(&self, message: &Message, rules: Rules, except: Option<usize>) -> LineStatus {
        let mut arbiter = Arbiter::default();
        for vcpu in self.iter().filter(|vcpu| Some(vcpu.index) != except) {
            let snapshot = vcpu.apic.snapshot();
            if dest::matches(message, &snapshot, rules) {
                arbiter.consider(message, vcpu.index, &snapshot);
            }
        }
        match arbiter.winner().and_then(|index| self.get(index)) {
            Some(vcpu) => status(hand_over(vcpu, message)),
            None => LineStatus::Ignored,
        }
    }
}

/// Posts to one vCPU and kicks it.
fn hand_over(vcpu: &VcpuShared, message: &Message) -> Posted {
    let posted = vcpu.apic.accept(message);
    if posted == Posted::Notify {
        vcpu.notify();
    } else if posted.needs_kick() {
        vcpu.kick();
    }
    posted
}

const fn accepted(posted: Posted) -> bool {
    matches!(posted, Posted::Accepted { .. } | Posted::Notify)
}

const fn status(posted: Posted) -> LineStatus {
    match posted {
        Posted::Rejected => LineStatus::Ignored,
        Posted::Coalesced => LineStatus::Coalesced,
        Posted::Accepted { .. } | Posted::Notify => LineStatus::Delivered(1),
    }
}
