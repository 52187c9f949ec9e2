// SPDX-License-Identifier: GPL-2.0-or-later

//! The stock kernel's modules: which need which, as `modules.dep` says.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// The contents of a `modules.dep`.
pub struct Dependencies {
    /// Module name to its file and the files it needs, relative to the
    /// directory of the kernel's release.
    files: BTreeMap<String, (String, Vec<String>)>,
}

impl Dependencies {
    pub fn read(file: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("no {}", file.display()))?;
        Ok(Self::parse(&text))
    }

    /// Each line: a file, a colon, the files it needs, the first of which
    /// needs those behind it.
    fn parse(text: &str) -> Self {
        let files = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, needs)| {
                let needs = needs.split_whitespace().map(str::to_owned).collect();
                (name(file), (file.to_owned(), needs))
            })
            .collect();
        Self { files }
    }

    /// The files of the modules `names` and all they need, in an order in
    /// which they can be loaded. Names of what is built in are passed over.
    pub fn load_order<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut order = Vec::new();
        for wanted in names {
            let Some((file, needs)) = self.files.get(&name(wanted)) else {
                continue;
            };
            for file in needs.iter().rev().chain([file]) {
                if !order.contains(file) {
                    order.push(file.clone());
                }
            }
        }
        order
    }
}

/// A module's name from its file: `a/kvm-amd.ko.xz` is `kvm_amd`.
fn name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    let stem = base.split('.').next().unwrap_or(base);
    stem.replace('-', "_")
}

/// The modules that a module file says it needs (`depends=` of its modinfo).
pub fn needs_of(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let value = &module[at + key.len()..];
    let end = value.iter().position(|byte| *byte == 0);
    let text = String::from_utf8_lossy(&value[..end.unwrap_or(0)]).into_owned();
    text.split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/arch/x86/kvm/kvm.ko.xz: kernel/virt/lib/irqbypass.ko.xz
kernel/arch/x86/kvm/kvm-amd.ko.xz: kernel/arch/x86/kvm/kvm.ko.xz kernel/virt/lib/irqbypass.ko.xz
kernel/virt/lib/irqbypass.ko.xz:
";

    #[test]
    fn needed_modules_come_first_and_once() {
        let deps = Dependencies::parse(DEP);
        let order = deps.load_order(["kvm", "kvm_amd", "ext4"]);
        assert_eq!(
            order,
            [
                "kernel/virt/lib/irqbypass.ko.xz",
                "kernel/arch/x86/kvm/kvm.ko.xz",
                "kernel/arch/x86/kvm/kvm-amd.ko.xz",
            ]
        );
    }

    #[test]
    fn modinfo_names_what_is_needed() {
        assert_eq!(needs_of(b"x\0depends=a,b_c\0name=kvm\0"), ["a", "b_c"]);
        assert!(needs_of(b"x\0depends=\0name=kvm\0").is_empty());
        assert!(needs_of(b"").is_empty());
    }
}
