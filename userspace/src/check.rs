// SPDX-License-Identifier: GPL-2.0-or-later

//! `ironvm check`: what this host offers for running guests, what is missing, and how to get it.
//!
//! Facts are gathered first and judged afterwards, so that judging can be tested.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Result;
use kvm_bindings::KVM_API_VERSION;
use kvm_ioctls::Kvm;

use crate::cli::CheckArgs;
use crate::config;
use crate::kvm;
use crate::message::answer;

/// Exit status when something is missing.
const MISSING: u8 = 1;

/// Who makes the processor, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vendor {
    Amd,
    Intel,
    Other,
}

/// What `/proc/cpuinfo` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Processor {
    vendor: Vendor,
    /// The processor can run guests: SVM or VMX.
    virtualization: bool,
    /// We are in a virtual machine ourselves.
    inside_vm: bool,
}

/// Which KVM modules are loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Module {
    None,
    /// `kvm` alone: ironvm's, if there is a device; half of the kernel's own otherwise, whose
    /// other half makes the device.
    Alone,
    /// The kernel's own, with this vendor module.
    Kernel(String),
}

/// What came of opening the device.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Device {
    Absent,
    /// Something else has the name.
    Other,
    /// The error number of opening it.
    Closed(i32),
    Open(Answers),
}

/// What KVM answers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answers {
    api_version: i32,
    missing: Vec<&'static str>,
    max_vcpus: u32,
    /// The error number of making a virtual machine.
    create_vm: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    path: PathBuf,
    processor: Processor,
    module: Module,
    device: Device,
    /// Transparent huge pages can be asked for.
    huge_pages: bool,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finding {
    Good(String),
    /// What is missing, and the remedy.
    Missing(String, String),
    /// Nothing that stops a guest.
    Note(String),
}

/// Does what `ironvm check` is asked for, and returns the exit status.
///
/// # Errors
///
/// None so far: what cannot be found out is said.
pub fn command(args: &CheckArgs) -> Result<u8> {
    let findings = judge(&gather(&args.kvm_device));
    for finding in &findings {
        match finding {
            Finding::Good(text) => answer!("ok       {text}"),
            Finding::Note(text) => answer!("note     {text}"),
            Finding::Missing(text, remedy) => {
                answer!("MISSING  {text}");
                answer!("         -> {remedy}");
            }
        }
    }
    let missing = findings
        .iter()
        .any(|finding| matches!(finding, Finding::Missing(..)));
    answer!();
    if missing {
        answer!("Guests cannot run here yet.");
        return Ok(MISSING);
    }
    answer!("Guests can run here: ironvm run --help shows how.");
    Ok(0)
}

fn gather(path: &Path) -> Facts {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Facts {
        path: path.to_owned(),
        processor: parse_cpuinfo(&cpuinfo),
        module: find_module(Path::new("/sys/module")),
        device: probe(path),
        huge_pages: !config::huge_pages_off(),
    }
}

fn parse_cpuinfo(text: &str) -> Processor {
    let field = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == name)
            .map_or("", |(_, value)| value.trim())
    };
    let has = |flag: &str| field("flags").split(' ').any(|other| other == flag);
    Processor {
        vendor: match field("vendor_id") {
            "AuthenticAMD" | "HygonGenuine" => Vendor::Amd,
            "GenuineIntel" | "CentaurHauls" => Vendor::Intel,
            _ => Vendor::Other,
        },
        virtualization: has("svm") || has("vmx"),
        inside_vm: has("hypervisor"),
    }
}

fn find_module(modules: &Path) -> Module {
    let names = fs::read_dir(modules).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut loaded = Module::None;
    for name in names {
        if name.starts_with("kvm_") {
            return Module::Kernel(name);
        }
        if name == "kvm" {
            loaded = Module::Alone;
        }
    }
    loaded
}

fn probe(path: &Path) -> Device {
    match fs::metadata(path) {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            return Device::Closed(libc::EACCES)
        }
        Err(_) => return Device::Absent,
        Ok(metadata) if !metadata.file_type().is_char_device() => return Device::Other,
        Ok(_) => {}
    }
    let Ok(c_path) = CString::new(path.as_os_str().as_bytes()) else {
        return Device::Absent;
    };
    match Kvm::new_with_path(c_path) {
        Ok(kvm) => Device::Open(ask(&kvm)),
        Err(error) => Device::Closed(error.errno()),
    }
}

fn ask(kvm: &Kvm) -> Answers {
    let api_version = kvm.get_api_version();
    if api_version != KVM_API_VERSION as i32 {
        return Answers {
            api_version,
            missing: Vec::new(),
            max_vcpus: 0,
            create_vm: None,
        };
    }
    Answers {
        api_version,
        missing: kvm::missing(kvm),
        max_vcpus: kvm::max_vcpus(kvm),
        create_vm: kvm.create_vm().err().map(|error| error.errno()),
    }
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![judge_processor(facts)];
    findings.extend(judge_module(facts));
    findings.extend(judge_device(facts));
    if !facts.huge_pages {
        findings.push(Finding::Note(
            "no transparent huge pages: --hugepages will not work".to_owned(),
        ));
    }
    findings
}

fn judge_processor(facts: &Facts) -> Finding {
    let name = match facts.processor.vendor {
        Vendor::Amd => "AMD processor with SVM",
        Vendor::Intel => "Intel processor with VMX",
        Vendor::Other => "processor with virtualization",
    };
    if facts.processor.virtualization {
        return Finding::Good(name.to_owned());
    }
    let lack = "the processor shows no virtualization (svm, vmx)";
    if matches!(&facts.device, Device::Open(answers) if answers.create_vm.is_none()) {
        return Finding::Note(format!("{lack}, but this KVM does without"));
    }
    let remedy = if facts.processor.inside_vm {
        "this is a virtual machine: switch on nested virtualization for it on its host"
    } else {
        "switch it on in the firmware setup (\"SVM mode\", \"Intel Virtualization Technology\"), then power the machine off and on"
    };
    Finding::Missing(lack.to_owned(), remedy.to_owned())
}

fn load_command(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::Amd => "`sudo modprobe kvm` for ironvm's module, or `sudo modprobe kvm_amd` for the kernel's own",
        Vendor::Intel => "`sudo modprobe kvm` for ironvm's module, or `sudo modprobe kvm_intel` for the kernel's own",
        Vendor::Other => "`sudo modprobe kvm`",
    }
}

fn judge_module(facts: &Facts) -> Option<Finding> {
    let present = facts.device != Device::Absent;
    let missing = |what: &str| {
        // Without virtualization no module can help, and the processor is complained of already.
        facts.processor.virtualization.then(|| {
            Finding::Missing(
                what.to_owned(),
                load_command(facts.processor.vendor).to_owned(),
            )
        })
    };
    match &facts.module {
        Module::Alone if present => Some(Finding::Good("KVM module: ironvm's kvm".to_owned())),
        Module::Kernel(name) => Some(Finding::Good(format!(
            "KVM module: the kernel's own, {name}"
        ))),
        // It may have another name; what counts is that it answers.
        Module::None if present => None,
        Module::Alone => missing("the kernel's kvm module is loaded, but none for this processor"),
        Module::None => missing("no KVM module is loaded"),
    }
}

fn judge_device(facts: &Facts) -> Vec<Finding> {
    let path = facts.path.display();
    let missing = |what: String, remedy: &str| vec![Finding::Missing(what, remedy.to_owned())];
    match &facts.device {
        Device::Absent => missing(
            format!("there is no {path}"),
            "it appears when a KVM module is loaded; in a container, have it passed in (`--device /dev/kvm`)",
        ),
        Device::Other => missing(
            format!("{path} is not a device"),
            "remove it and load the KVM module again",
        ),
        Device::Closed(libc::EACCES | libc::EPERM) => missing(
            format!("you may not open {path}"),
            &format!("become a member of its group: `sudo usermod -aG {} $USER`, then log in again", group_of(&facts.path)),
        ),
        Device::Closed(libc::ENODEV | libc::ENXIO) => missing(
            format!("nothing answers at {path}"),
            load_command(facts.processor.vendor),
        ),
        Device::Closed(errno) => missing(
            format!("{path} cannot be opened: {}", std::io::Error::from_raw_os_error(*errno)),
            "look for a reason in `sudo dmesg`",
        ),
        Device::Open(answers) => judge_answers(&path.to_string(), answers),
    }
}

/// The group a device belongs to, by name where that is easy: `kvm`, or else its number.
fn group_of(path: &Path) -> String {
    let gid = fs::metadata(path).map_or(0, |metadata| metadata.gid());
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    group_name(&groups, gid).unwrap_or_else(|| "kvm".to_owned())
}

fn group_name(groups: &str, gid: u32) -> Option<String> {
    // Being a member of root's group is nobody's remedy.
    if gid == 0 {
        return None;
    }
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id: u32 = fields.nth(1)?.parse().ok()?;
        (id == gid).then(|| name.to_owned())
    })
}

fn judge_answers(path: &str, answers: &Answers) -> Vec<Finding> {
    if answers.api_version != KVM_API_VERSION as i32 {
        return vec![Finding::Missing(
            format!("{path} does not speak version {KVM_API_VERSION} of the KVM API"),
            "name KVM's device with --kvm-device".to_owned(),
        )];
    }
    let mut findings = vec![Finding::Good(format!(
        "{path} speaks version {KVM_API_VERSION} of the KVM API"
    ))];
    if answers.missing.is_empty() {
        findings.push(Finding::Good(format!(
            "all {} capabilities that are needed",
            kvm::REQUIRED.len()
        )));
    } else {
        findings.push(Finding::Missing(
            format!("capabilities: {}", answers.missing.join(", ")),
            "use a newer KVM module".to_owned(),
        ));
    }
    findings.push(match answers.create_vm {
        None => Finding::Good("a virtual machine can be made".to_owned()),
        Some(errno @ (libc::EBUSY | libc::EIO)) => Finding::Missing(
            format!(
                "no virtual machine can be made: {}",
                std::io::Error::from_raw_os_error(errno)
            ),
            "another hypervisor (VirtualBox, VMware) may hold the processor: end it".to_owned(),
        ),
        Some(errno) => Finding::Missing(
            format!(
                "no virtual machine can be made: {}",
                std::io::Error::from_raw_os_error(errno)
            ),
            "look for a reason in `sudo dmesg`".to_owned(),
        ),
    });
    findings.push(Finding::Good(format!(
        "up to {} vCPUs in a guest",
        answers.max_vcpus
    )));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: x: y\nflags\t\t: fpu svm hypervisor\n\nprocessor\t: 1\n";

    fn facts() -> Facts {
        Facts {
            path: "/dev/kvm".into(),
            processor: Processor {
                vendor: Vendor::Amd,
                virtualization: true,
                inside_vm: false,
            },
            module: Module::Kernel("kvm_amd".to_owned()),
            device: Device::Open(Answers {
                api_version: 12,
                missing: Vec::new(),
                max_vcpus: 254,
                create_vm: None,
            }),
            huge_pages: true,
        }
    }

    fn missing(facts: &Facts) -> Vec<String> {
        judge(facts)
            .into_iter()
            .filter_map(|finding| match finding {
                Finding::Missing(what, remedy) => Some(format!("{what} -> {remedy}")),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn cpuinfo() {
        assert_eq!(
            parse_cpuinfo(CPUINFO),
            Processor {
                vendor: Vendor::Amd,
                virtualization: true,
                inside_vm: true
            }
        );
        assert!(!parse_cpuinfo("flags : svm_lock vmxnet\n").virtualization);
        assert!(!parse_cpuinfo("").virtualization);
    }

    #[test]
    fn a_good_host_misses_nothing() {
        assert!(missing(&facts()).is_empty());
        let built_in = Facts {
            module: Module::None,
            ..facts()
        };
        assert!(missing(&built_in).is_empty());
    }

    #[test]
    fn each_lack_has_its_remedy() {
        let cases = [
            (
                Facts {
                    module: Module::None,
                    device: Device::Absent,
                    ..facts()
                },
                "modprobe kvm_amd",
            ),
            (
                Facts {
                    module: Module::Alone,
                    device: Device::Absent,
                    ..facts()
                },
                "modprobe kvm_amd",
            ),
            (
                Facts {
                    device: Device::Closed(libc::EACCES),
                    ..facts()
                },
                "usermod",
            ),
            (
                Facts {
                    device: Device::Closed(libc::ENODEV),
                    ..facts()
                },
                "modprobe",
            ),
            (
                Facts {
                    device: Device::Other,
                    ..facts()
                },
                "not a device",
            ),
        ];
        for (facts, expected) in cases {
            let missing = missing(&facts).join("\n");
            assert!(missing.contains(expected), "{missing}");
        }
    }

    #[test]
    fn no_virtualization_is_explained_by_where_we_are() {
        let mut host = facts();
        host.processor.virtualization = false;
        host.module = Module::None;
        host.device = Device::Absent;
        assert!(missing(&host)[0].contains("firmware"));
        host.processor.inside_vm = true;
        assert!(missing(&host)[0].contains("nested"));
        assert!(
            !missing(&host).join("").contains("modprobe"),
            "no module can help"
        );
    }

    #[test]
    fn kvm_without_hardware_is_fine() {
        let mut host = facts();
        host.processor.virtualization = false;
        assert!(missing(&host).is_empty());
    }

    #[test]
    fn modules() {
        let modules =
            std::env::temp_dir().join(format!("ironvm-test-modules-{}", std::process::id()));
        assert_eq!(find_module(&modules), Module::None);
        fs::create_dir_all(modules.join("kvm")).unwrap();
        assert_eq!(find_module(&modules), Module::Alone);
        fs::create_dir(modules.join("kvm_intel")).unwrap();
        assert_eq!(
            find_module(&modules),
            Module::Kernel("kvm_intel".to_owned())
        );
        fs::remove_dir_all(&modules).unwrap();
    }

    #[test]
    fn kvm_that_lacks_something() {
        let with = |change: fn(&mut Answers)| {
            let Device::Open(mut answers) = facts().device else {
                unreachable!()
            };
            change(&mut answers);
            missing(&Facts {
                device: Device::Open(answers),
                ..facts()
            })
            .join("\n")
        };
        assert!(with(|answers| answers.missing = vec!["KVM_CAP_IRQFD"]).contains("KVM_CAP_IRQFD"));
        assert!(with(|answers| answers.create_vm = Some(libc::EBUSY)).contains("VirtualBox"));
        assert!(with(|answers| answers.api_version = -1).contains("--kvm-device"));
    }

    #[test]
    fn groups() {
        let groups = "root:x:0:\nkvm:x:104:alice\n";
        assert_eq!(group_name(groups, 104).as_deref(), Some("kvm"));
        assert_eq!(group_name(groups, 0), None);
        assert_eq!(group_name(groups, 5), None);
    }
}
