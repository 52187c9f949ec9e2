// SPDX-License-Identifier: GPL-2.0

//! What processor a vCPU is: its CPUID, what follows from that, its MSRs.

use super::vcpu::Vcpu;
use crate::host::cpu;
use crate::host::errno;
use crate::host::fpu;
use crate::host::global::Global;
use crate::hw::Vendor;
use crate::pc::control;
use crate::pc::cpuid::supported::Restrictions;
use crate::pc::cpuid::Answer;
use crate::pc::cpuid::CpuidTable;
use crate::pc::cpuid::Dynamic;
use crate::pc::cpuid::Feature;
use crate::pc::cpuid::FeatureSet;
use crate::pc::cpuid::GuestCaps;
use crate::pc::cpuid::Platform;
use crate::pc::lapic;
use crate::pc::msr::lists;
use crate::pc::msr::MsrFile;
use crate::pc::regs::Cr4;
use crate::uapi;
use crate::uapi::kvm_cpuid_entry2;
use kernel::prelude::*;

/// The processor of this host, as guests get it.
static PLATFORM: Global<Platform> = Global::new();

/// Banks of machine checks a vCPU can have (KVM_CAP_MCE).
pub const MCE_BANKS: u32 = 32;

/// KVM_CAP_X2APIC_API: what can be switched on.
pub const X2APIC_API_FLAGS: u64 =
    uapi::KVM_X2APIC_API_USE_32BIT_IDS | uapi::KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;

/// CPUID of this host.
pub fn host_cpuid(leaf: u32, subleaf: u32) -> Answer {
    let result = cpu::cpuid(leaf, subleaf);
    Answer {
        eax: result.eax,
        ebx: result.ebx,
        ecx: result.ecx,
        edx: result.edx,
    }
}

/// Takes stock of the host, when the module loads.
pub fn init<V: Vendor>() -> Result {
    PLATFORM.set(Platform::new(
        &host_cpuid,
        &Restrictions {
            withheld: FeatureSet::EMPTY.with(V::WITHHELD),
            xcr0: fpu::permitted_features(),
            addressable_bits: V::nested_config().physical_bits,
        },
    ))
}

/// Forgets what [`init`] found.
///
/// # Safety
///
/// No vCPU exists and none will.
pub unsafe fn exit() {
    // SAFETY: By the precondition.
    unsafe { PLATFORM.clear() };
}

/// The host as guests get it.
///
/// # Errors
///
/// `ENODEV` before [`init`].
pub fn platform() -> Result<&'static Platform> {
    PLATFORM.get().ok_or(ENODEV)
}

/// Size of KVM_GET_XSAVE2's area for a guest with these extended states.
pub fn xsave_size(features: u64) -> u32 {
    let size = platform().map_or(0, |platform| {
        platform.xsave.standard_size(features & platform.xcr0)
    });
    size.max(fpu::XSAVE_REGION as u32)
}

/// What processor one vCPU is.
pub struct Model {
    table: CpuidTable<KVVec<kvm_cpuid_entry2>>,
    caps: GuestCaps,
    platform: &'static Platform,
    /// Its MSRs, as far as the hardware does not hold them.
    pub msrs: MsrFile,
}

impl Model {
    /// A processor before KVM_SET_CPUID2: it has no CPUID leaves.
    #[inline(never)]
    pub fn new() -> Result<KBox<Self>> {
        let platform = platform()?;
        let table = CpuidTable::new(KVVec::new()).map_err(|_| EINVAL)?;
        let model = Self {
            table,
            caps: GuestCaps::without_cpuid(platform),
            platform,
            msrs: MsrFile::new(
                platform.vendor,
                lists::arch_capabilities(platform, &|index| cpu::rdmsr_safe(index).ok()),
            ),
        };
        Ok(KBox::new(model, GFP_KERNEL_ACCOUNT)?)
    }

    /// Takes over what userspace set. A vCPU that has run keeps what it was.
    ///
    /// # Errors
    ///
    /// As KVM_SET_CPUID2: `E2BIG`, `EINVAL`.
    pub fn set_cpuid(&mut self, entries: KVVec<kvm_cpuid_entry2>, has_run: bool) -> Result {
        let mut table = CpuidTable::new(entries).map_err(errno::error)?;
        if has_run {
            if let Some(dynamic) = self.table.dynamic() {
                table.set_dynamic(dynamic, &self.platform.xsave);
            }
            return if table.entries() == self.table.entries() {
                Ok(())
            } else {
                Err(EINVAL)
            };
        }
        self.caps = GuestCaps::new(&table, self.platform, false);
        self.table = table;
        Ok(())
    }

    /// The CPUID entries with the bits that follow the guest's state.
    pub fn entries(&self) -> &[kvm_cpuid_entry2] {
        self.table.entries()
    }

    /// What CPUID answers.
    #[inline]
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> Answer {
        self.table.lookup(leaf, subleaf)
    }

    /// Family, model and stepping: RDX after RESET and INIT.
    pub fn signature(&self) -> u32 {
        const DEFAULT: u32 = 0x600;
        self.table.find(1, 0).map_or(DEFAULT, |leaf| leaf.eax)
    }

    /// What the guest may do.
    #[inline]
    pub fn caps(&self) -> &GuestCaps {
        &self.caps
    }

    /// An MSR that the guest may read and that is nothing but a value.
    #[inline]
    pub fn plain_msr(&self, index: u32) -> Option<u64> {
        self.msrs.read_plain(index, &self.caps)
    }

    /// What the guest may do, and its MSRs.
    #[inline]
    pub fn caps_and_msrs(&mut self) -> (&GuestCaps, &mut MsrFile) {
        (&self.caps, &mut self.msrs)
    }

    fn mirror(&mut self, dynamic: Dynamic) {
        self.table.set_dynamic(dynamic, &self.platform.xsave);
    }
}

impl<V: Vendor> Vcpu<V> {
    /// CPUID has been set: what follows from it.
    pub fn after_cpuid(&mut self) {
        let caps = self.model.caps();
        let reads_tsc_aux = caps.has(Feature::RDTSCP) || caps.has(Feature::RDPID);
        self.tsc_aux.is_read = reads_tsc_aux;
        self.hw.enable_rdtscp(reads_tsc_aux);
        self.mirror_state_in_cpuid();
        let config = self.lapic.as_ref().map(|lapic| lapic::Config {
            max_phys_bits: self.model.caps().physical_bits,
            x2apic: self.model.caps().has(Feature::X2APIC),
            tsc_deadline: self.model.caps().has(Feature::TSC_DEADLINE),
            ..*lapic.config()
        });
        if let (Some(lapic), Some(config)) = (self.lapic.as_mut(), config) {
            lapic.set_config(config);
        }
    }

    /// CPUID shows bits of CR4, XCR0 and IA32_APIC_BASE: to be called when one
    /// of them has changed.
    pub fn mirror_state_in_cpuid(&mut self) {
        const APIC_ENABLE: u64 = 1 << 11;
        let cr4 = Cr4(self.hw.cr4());
        let dynamic = Dynamic {
            osxsave: cr4.has(Cr4::OSXSAVE),
            pke: cr4.has(Cr4::PKE),
            apic: self.apic_base() & APIC_ENABLE != 0,
            monitor: None,
            xcr0: self.xcr0.bits(),
            xss: 0,
        };
        self.model.mirror(dynamic);
    }

    /// Sets XCR0 if the guest may have the value.
    pub fn set_xcr0(&mut self, value: u64) -> Option<()> {
        let value = control::write_xcr0(value, self.model.caps()).ok()?;
        self.xcr0 = fpu::Xcr0::new(value, self.host_xcr0?)?;
        self.mirror_state_in_cpuid();
        Some(())
    }
}
