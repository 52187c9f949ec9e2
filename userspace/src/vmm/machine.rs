// SPDX-License-Identifier: GPL-2.0-or-later

//! Building the machine: memory, interrupt controllers, devices, vCPUs, and the kernel in memory.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use kvm_bindings::{kvm_pit_config, KVM_PIT_SPEAKER_DUMMY};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::host::{Console, Host};
use crate::boot::layout::{self, gsi, port};
use crate::boot::{acpi, Entry};
use crate::bus::{Bus, BusDevice};
use crate::cli::ConsoleArg;
use crate::config::{Config, SERIAL_PORTS};
use crate::devices::acpi_pm::AcpiPm;
use crate::devices::cmos::Cmos;
use crate::devices::exit_port::ExitPort;
use crate::devices::i8042::I8042;
use crate::devices::pci::{ConfigPorts, HostBridge, PciBus, PciWindow};
use crate::devices::pvpanic::Pvpanic;
use crate::devices::reset::ResetControl;
use crate::devices::serial::Serial;
use crate::devices::virtio::blk::Block;
use crate::devices::virtio::pci::VirtioPci;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::{self, VirtioDevice};
use crate::ending::Control;
use crate::irq::Router;
use crate::memory;
use crate::vcpu::{setup, Shared, Vcpu};

/// A machine, ready to run. Fields are dropped in order: the memory goes last.
pub struct Machine {
    vcpus: Vec<Vcpu>,
    console: Option<Arc<Mutex<Serial>>>,
    drained: Arc<EventFd>,
    /// KVM drops every irqfd when this is closed, whoever else still uses the machine.
    _vm: Arc<VmFd>,
    shared: Shared,
}

fn attach<D: BusDevice + 'static>(bus: &mut Bus, base: u16, length: u16, device: D) -> Result<()> {
    bus.insert(
        u64::from(base),
        u64::from(length),
        Arc::new(Mutex::new(device)),
    )
}

impl Machine {
    /// Builds the machine `config` asks for and puts the kernel into it.
    ///
    /// # Errors
    ///
    /// A sentence for the user.
    pub fn build(config: &Config, kvm: &Kvm, host: &Host, control: Arc<Control>) -> Result<Self> {
        let memory = memory::allocate(config.memory, config.hugepages)?;
        let vm = create_vm(kvm)?;
        memory::attach(&vm, &memory)?;
        let router = Arc::new(Router::new(vm.clone())?);
        let drained = Arc::new(EventFd::new(EFD_NONBLOCK).context("cannot make an eventfd")?);

        let mut ports = Bus::default();
        add_platform(&mut ports, config, &control)?;
        let serials = add_serial_ports(&mut ports, config, host, &router, &drained)?;
        let pci = Arc::new(add_pci_devices(config, &memory, &vm, &router)?);
        let reset = ResetControl::new(control.clone());
        attach(
            &mut ports,
            port::PCI_CONFIG,
            port::PCI_CONFIG_SIZE,
            ConfigPorts::new(pci.clone(), reset),
        )?;
        let mut mmio = Bus::default();
        let window = Arc::new(Mutex::new(PciWindow::new(pci)));
        mmio.insert(layout::PCI_MMIO_START, layout::PCI_MMIO_SIZE, window)?;

        let description = acpi::Machine {
            cpus: config.cpus,
            serial: std::array::from_fn(|number| serials.get(number).is_some_and(Option::is_some)),
        };
        let entry = config.kernel.load(
            &memory,
            config.memory,
            config.initrd.as_ref(),
            &config.append,
            &description,
        )?;
        let vcpus = create_vcpus(kvm, &vm, config.cpus, &memory, entry)?;
        Ok(Self {
            vcpus,
            console: host
                .on_stdio()
                .and_then(|number| serials.get(number).cloned().flatten()),
            drained,
            _vm: vm,
            shared: Shared {
                ports: Arc::new(ports),
                mmio: Arc::new(mmio),
                control,
                memory,
            },
        })
    }

    /// The vCPUs, what they share, and the console on stdio.
    pub fn parts(&mut self) -> (&mut [Vcpu], &Shared, Console) {
        let console = Console {
            serial: self.console.clone(),
            drained: self.drained.clone(),
        };
        (&mut self.vcpus, &self.shared, console)
    }
}

fn create_vm(kvm: &Kvm) -> Result<Arc<VmFd>> {
    let vm = loop {
        // A signal while KVM sets the machine up makes it give up; ours are not for it.
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => break result.context("KVM refused to make a virtual machine")?,
        }
    };
    vm.set_identity_map_address(layout::IDENTITY_MAP)
        .context("KVM refused the identity map's address")?;
    vm.set_tss_address(usize::try_from(layout::TSS)?)
        .context("KVM refused the TSS's address")?;
    vm.create_irq_chip()
        .context("KVM refused to make interrupt controllers")?;
    let pit = kvm_pit_config {
        // KVM answers port 0x61 too: Linux calibrates with it.
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit).context("KVM refused to make a timer")?;
    Ok(Arc::new(vm))
}

fn add_platform(ports: &mut Bus, config: &Config, control: &Arc<Control>) -> Result<()> {
    attach(
        ports,
        port::I8042,
        port::I8042_SIZE,
        I8042::new(control.clone()),
    )?;
    attach(ports, port::CMOS, port::CMOS_SIZE, Cmos::new())?;
    attach(ports, port::PVPANIC, 1, Pvpanic::new(control.clone()))?;
    attach(ports, port::PM, port::PM_SIZE, AcpiPm::new(control.clone()))?;
    if let Some(base) = config.exit_port {
        attach(ports, base, 1, ExitPort::new(control.clone()))
            .with_context(|| format!("--exit-port {base:#x}: a device is there already"))?;
    }
    Ok(())
}

type SerialPorts = [Option<Arc<Mutex<Serial>>>; SERIAL_PORTS];

fn add_serial_ports(
    ports: &mut Bus,
    config: &Config,
    host: &Host,
    router: &Router,
    drained: &Arc<EventFd>,
) -> Result<SerialPorts> {
    let mut serials: SerialPorts = Default::default();
    let places = port::COM.into_iter().zip(gsi::COM);
    for (number, ((base, line), slot)) in places.zip(&mut serials).enumerate() {
        if config.consoles.get(number) == Some(&ConsoleArg::None) {
            continue;
        }
        let interrupt = EventFd::new(EFD_NONBLOCK).context("cannot make an eventfd")?;
        router.bind(&interrupt, line)?;
        let serial = Serial::new(interrupt, drained.clone(), host.output(number));
        let serial = Arc::new(Mutex::new(serial));
        ports.insert(u64::from(base), u64::from(port::COM_SIZE), serial.clone())?;
        *slot = Some(serial);
    }
    Ok(serials)
}

/// The host bridge, the entropy device, and the disks in their order.
fn add_pci_devices(
    config: &Config,
    memory: &GuestMemoryMmap,
    vm: &Arc<VmFd>,
    router: &Arc<Router>,
) -> Result<PciBus> {
    let mut bus = PciBus::default();
    bus.add(Arc::new(Mutex::new(HostBridge::new())))?;
    let mut builder = VirtioBuilder {
        bus,
        memory,
        vm,
        router,
    };
    builder.add("rng", Rng)?;
    for (number, disk) in config.disks.iter().enumerate() {
        let file = disk.file.try_clone().context("cannot share a disk")?;
        let block = Block::new(file, disk.sectors, disk.read_only, &disk.name);
        builder.add(&format!("disk{number}"), block)?;
    }
    Ok(builder.bus)
}

/// Puts virtio devices on a bus.
struct VirtioBuilder<'a> {
    bus: PciBus,
    memory: &'a GuestMemoryMmap,
    vm: &'a Arc<VmFd>,
    router: &'a Arc<Router>,
}

impl VirtioBuilder<'_> {
    fn add<D: VirtioDevice>(&mut self, name: &str, device: D) -> Result<()> {
        let address = self.bus.next_memory(virtio::pci::MEMORY_SIZE);
        let function = VirtioPci::new(
            name,
            device,
            address,
            self.memory.clone(),
            self.router.clone(),
            Box::new(self.vm.clone()),
        )?;
        self.bus.add(Arc::new(Mutex::new(function)))
    }
}

fn create_vcpus(
    kvm: &Kvm,
    vm: &VmFd,
    count: u32,
    memory: &GuestMemoryMmap,
    entry: Entry,
) -> Result<Vec<Vcpu>> {
    let supported = setup::supported_cpuid(kvm)?;
    let mut vcpus = Vec::new();
    for index in 0..count {
        let fd = vm
            .create_vcpu(u64::from(index))
            .with_context(|| format!("KVM refused to make vCPU {index}"))?;
        setup::common(&fd, kvm, &supported, index, count)?;
        if index == 0 {
            setup::boot_processor(&fd, memory, entry)?;
        }
        vcpus.push(Vcpu::new(index, fd));
    }
    Ok(vcpus)
}
