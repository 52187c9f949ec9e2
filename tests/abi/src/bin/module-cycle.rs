// SPDX-License-Identifier: GPL-2.0-or-later

//! Loads and unloads the module under test over and over.
//!
//! `module-cycle PATH... [--times N]`: the modules are loaded in the order given and unloaded in the
//! other; the last one is the one that may not go while it is in use. Modules of these names that
//! are loaded at the start are unloaded first, and all are loaded again at the end.

use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use ironvm_abi_tests::fds::Kvm;
use ironvm_abi_tests::harness::kernel_log::KernelLog;
use ironvm_abi_tests::harness::Report;
use ironvm_abi_tests::memory_info::{module_users, Usage};
use ironvm_abi_tests::sys::{check, SysResult};
use ironvm_abi_tests::{code64, ensure, ensure_eq, ensure_errno, guest, Exit, Failure, Outcome};

const SLACK: Usage = Usage {
    used: 12 << 10,
    slab: 4 << 10,
    vmalloc: 512,
    tables: 256,
    files: 16,
};

struct Module {
    path: String,
    name: CString,
}

impl Module {
    fn new(path: &str) -> Option<Self> {
        let stem = Path::new(path).file_stem()?.to_str()?;
        // The kernel's name for `kvm-amd.ko` is `kvm_amd`; a file may be called otherwise, so what
        // is inside counts where it can be told.
        let name = name_inside(path).unwrap_or_else(|| stem.replace('-', "_"));
        Some(Self {
            path: path.to_string(),
            name: CString::new(name).ok()?,
        })
    }

    fn load(&self) -> Result<(), Failure> {
        let file = std::fs::File::open(&self.path)
            .map_err(|e| Failure::Failed(format!("{}: {e}", self.path)))?;
        // SAFETY: an open file, an empty string that ends in a zero byte, no flags.
        let r = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
        check("finit_module", r)?;
        Ok(())
    }

    fn unload(&self) -> SysResult<()> {
        let flags = libc::O_NONBLOCK;
        // SAFETY: a string that ends in a zero byte, and flags.
        let r = unsafe { libc::syscall(libc::SYS_delete_module, self.name.as_ptr(), flags) };
        check("delete_module", r).map(drop)
    }
}

/// The `name=` of the module's information section.
fn name_inside(path: &str) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    let tag = b"\0name=";
    let at = bytes.windows(tag.len()).position(|w| w == tag)? + tag.len();
    let end = bytes[at..].iter().position(|b| *b == 0)? + at;
    String::from_utf8(bytes[at..end].to_vec()).ok()
}

struct Set(Vec<Module>);

impl Set {
    fn load(&self) -> Outcome {
        self.0.iter().try_for_each(Module::load)
    }

    /// Unloads all. A descriptor that was just closed may still be on its way out of the kernel (it
    /// is put by the task on its way to user mode, and VMs may be freed by work queues), so that
    /// takes a moment.
    fn unload(&self) -> Outcome {
        for module in self.0.iter().rev() {
            let end = Instant::now() + Duration::from_secs(10);
            loop {
                match module.unload() {
                    Ok(()) => break,
                    Err(e) if e.number == libc::EAGAIN && Instant::now() < end => {
                        std::thread::sleep(Duration::from_millis(10))
                    }
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(())
    }

    fn last(&self) -> Result<&Module, Failure> {
        self.0
            .last()
            .ok_or_else(|| Failure::Failed("no module".to_string()))
    }
}

fn unload_what_is_there(set: &Set) -> Outcome {
    for module in set.0.iter().rev() {
        match module.unload() {
            Ok(()) => {}
            Err(e) if e.number == libc::ENOENT => {}
            Err(e) => return Err(e.into()),
        }
    }
    ensure!(
        !Path::new("/dev/kvm").exists(),
        "/dev/kvm is there without the module"
    );
    Ok(())
}

fn loads_and_serves(set: &Set) -> Outcome {
    set.load()?;
    let (_machine, vcpu) = guest::long_mode(code64!("hlt"))?;
    ensure_eq!(vcpu.run_on()?, Exit::Hlt, "exit");
    drop((vcpu, _machine));
    set.unload()
}

fn loads_only_once(set: &Set) -> Outcome {
    set.load()?;
    match set.last()?.load() {
        Err(Failure::Failed(why)) if why.contains("EEXIST") => {}
        other => ironvm_abi_tests::fail!("a second load gave {other:?}"),
    }
    set.unload()
}

/// While anything of it is open or mapped the module stays.
fn stays_while_in_use(set: &Set) -> Outcome {
    set.load()?;
    let module = set.last()?;
    let refused = |what: &str| -> Outcome {
        ensure_errno!(module.unload(), libc::EAGAIN, "unload with {what}");
        Ok(())
    };
    let kvm = Kvm::open()?;
    refused("the device open")?;
    let vm = kvm.create_vm(0)?;
    let size = kvm.run_size()?;
    drop(kvm);
    refused("a VM open")?;
    let fd = vm.create_vcpu(0)?;
    drop(vm);
    refused("a vCPU open")?;
    let vcpu = ironvm_abi_tests::Vcpu::new(fd, size, 0)?;
    let map = ironvm_abi_tests::sys::Mapping::new(
        4096,
        libc::PROT_READ,
        libc::MAP_SHARED,
        vcpu.as_raw_fd(),
        0,
    )?;
    drop(vcpu);
    refused("a vCPU's area mapped")?;
    drop(map);
    set.unload()?;
    set.load()?;
    let name = module.name.to_str().unwrap_or("");
    ensure_eq!(
        module_users(name),
        Some(0),
        "users after everything is closed"
    );
    set.unload()
}

/// Each time it also serves a guest, so that what a guest makes the module allocate counts too.
fn cycles(set: &Set, times: u64) -> Outcome {
    for i in 0..times {
        set.load()?;
        if i % 4 == 0 {
            let (machine, vcpu) = guest::long_mode_with_irqchip(code64!("out 0x10, al"))?;
            vcpu.run_to_done()?;
            drop((vcpu, machine));
        }
        set.unload()?;
    }
    Ok(())
}

fn main() {
    let mut times = 100;
    let mut paths = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--times" {
            times = args.next().and_then(|n| n.parse().ok()).unwrap_or(times);
        } else {
            paths.push(arg);
        }
    }
    let set = Set(paths.iter().filter_map(|p| Module::new(p)).collect());
    if set.0.is_empty() {
        eprintln!("usage: module-cycle PATH... [--times N]");
        std::process::exit(2);
    }
    let mut log = KernelLog::open();
    let mut report = Report::new();
    report.note("module/unloads", unload_what_is_there(&set));
    report.note("module/loads_and_serves", loads_and_serves(&set));
    report.note("module/loads_only_once", loads_only_once(&set));
    report.note("module/stays_while_in_use", stays_while_in_use(&set));
    report.note("module/warm_up", cycles(&set, 5));
    let before = Usage::now();
    report.note("module/cycles", cycles(&set, times));
    report.note("module/memory_is_back", Usage::check_back(&before, &SLACK));
    report.note("module/loads_again", set.load());
    let complaints = log.as_mut().map(KernelLog::complaints).unwrap_or_default();
    report.note(
        "module/kernel_log_is_clean",
        match complaints.first() {
            None => Ok(()),
            Some(line) => Err(Failure::Failed(line.clone())),
        },
    );
    std::process::exit(report.finish());
}
