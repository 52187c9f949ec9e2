// SPDX-License-Identifier: GPL-2.0-or-later

//! `lab bench`: what each kind of exit costs, in host instructions.
//!
//! Counting needs an emulator in which the TSC counts instructions; seconds
//! would be noise. `exit-bench` measures, once on the kernel's own KVM and
//! once on ours.

use crate::build::{Builder, Module, Programs};
use crate::emulator::Vendor;
use crate::host::{HostSpec, Input, Job, Kvm};
use crate::place::Place;
use crate::setup::setup;
use crate::table::render;
use crate::test::run_alone;
use anyhow::{anyhow, Result};
use std::time::Duration;

/// What each kind of exit may cost: its name in `exit-bench`, then the budget
/// on VMX and on SVM.
const BUDGET: [(&str, u32, u32); 9] = [
    ("cpuid", 300, 500),
    ("hypercall", 300, 500),
    ("msr", 350, 550),
    ("self-ipi", 350, 600),
    ("pio-module", 600, 600),
    ("pio-user", 1500, 1500),
    ("mmio-user", 2000, 2000),
    ("mmio-module", 900, 900),
    ("page-fault", 4000, 4000),
];

/// Measures and prints the table; the exit status for the lab.
pub fn bench(place: &Place, vendor: Vendor, model: Option<&str>) -> Result<i32> {
    let platform = setup(place)?;
    let builder = Builder::new(place, &platform)?;
    builder.all(Module::Lenient, Programs::Strict)?;
    let measure = |kvm| {
        let spec = HostSpec {
            model: model.map(str::to_owned),
            cpus: 1,
            count: true,
            ..HostSpec::new(vendor, kvm)
        };
        let job = Job {
            command: vec!["exit-bench".into()],
            input: Input::Nothing,
            limit: Some(Duration::from_secs(600)),
        };
        run_alone(place, &platform, &builder, &spec, &job)
    };
    // Counts do not depend on what else the machine does: both at once.
    let (stock, ours) = std::thread::scope(|scope| {
        let stock = scope.spawn(|| measure(Kvm::Stock));
        let ours = measure(Kvm::Ours);
        let panicked = |_| Err(anyhow!("the measurement panicked"));
        (stock.join().unwrap_or_else(panicked), ours)
    });
    let text = |result: &Result<String>| result.as_deref().map(str::to_owned).unwrap_or_default();
    print!("{}", report(vendor, &text(&stock), &text(&ours)));
    // With what could be measured shown, tell what could not.
    stock.map_err(|error| error.context("on stock KVM"))?;
    ours.map_err(|error| error.context("on ours"))?;
    Ok(0)
}

/// Puts what was measured and the budget side by side.
fn report(vendor: Vendor, stock: &str, ours: &str) -> String {
    let (stock, ours) = (parse(stock), parse(ours));
    let find = |list: &[(String, u32)], name: &str| {
        list.iter()
            .find(|entry| entry.0 == name)
            .map(|entry| entry.1)
    };
    let budget = |name: &str| {
        let row = BUDGET.iter().find(|row| row.0 == name)?;
        Some(match vendor {
            Vendor::Vmx => row.1,
            Vendor::Svm => row.2,
        })
    };
    let mut names: Vec<&str> = BUDGET.iter().map(|row| row.0).collect();
    for (name, _) in stock.iter().chain(&ours) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let cell = |number: Option<u32>| number.map_or("-".to_owned(), |number| number.to_string());
    let head = ["exit", "stock", "ours", "budget", ""].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    for name in names {
        let (mine, aim) = (find(&ours, name), budget(name));
        let over = matches!((mine, aim), (Some(mine), Some(aim)) if mine > aim);
        rows.push(vec![
            name.to_owned(),
            cell(find(&stock, name)),
            cell(mine),
            cell(aim),
            if over { "over" } else { "" }.to_owned(),
        ]);
    }
    render(&rows)
}

/// Reads lines of `name<TAB>count`; others are passed over.
fn parse(text: &str) -> Vec<(String, u32)> {
    text.lines()
        .filter_map(|line| line.split_once('\t'))
        .filter_map(|(name, count)| Some((name.to_owned(), count.trim().parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_stands_beside_the_budget() {
        let text = report(
            Vendor::Svm,
            "cpuid\t2991\nnew\t7\nnoise\n",
            "cpuid\t480\nmsr\t551\n",
        );
        let line = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(line("cpuid"), ["cpuid", "2991", "480", "500"]);
        assert_eq!(line("msr"), ["msr", "-", "551", "550", "over"]);
        assert_eq!(line("new"), ["new", "7", "-", "-"]);
        assert_eq!(line("page-fault"), ["page-fault", "-", "-", "4000"]);
    }
}
