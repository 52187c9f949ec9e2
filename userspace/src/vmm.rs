// SPDX-License-Identifier: GPL-2.0-or-later

//! `ironvm run`: a guest from the first boot to the end.
//!
//! The main thread builds the machine and then waits, in [`host`], for the end, for signals and
//! for keys. Each vCPU has a thread, so has the console's output.

mod host;
mod machine;

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use kvm_ioctls::Kvm;

use self::host::Host;
use self::machine::Machine;
use crate::cli::RunArgs;
use crate::config::Config;
use crate::console::terminal;
use crate::ending::{Control, Ending};
use crate::kvm;
use crate::message::say;
use crate::vcpu::{self, Kick, Shared, Vcpu};

/// How long a vCPU may wait for the console's reader once the run is over.
const CONSOLE_LIMIT: Duration = Duration::from_secs(1);
/// How long a thread may take to stop once nothing holds it up.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Does what `ironvm run` is asked for, and returns the exit status.
///
/// # Errors
///
/// A sentence for the user, when the guest cannot be run.
pub fn command(args: &RunArgs) -> Result<u8> {
    let config = Config::new(args)?;
    let kvm = kvm::open(&args.kvm_device)?;
    kvm::require(&kvm, config.cpus, config.memory)?;
    vcpu::install_kick_handler()?;
    let mut host = Host::new(&config.consoles, args.quiet)?;
    let ending = loop {
        let ending = run_once(&config, &kvm, &mut host)?;
        if ending != Ending::Reset || config.no_reboot {
            break ending;
        }
        if !args.quiet {
            host.say("the guest reset; booting it again");
        }
    };
    host.finish();
    if !args.quiet && ending != Ending::PowerOff {
        say!("{ending}");
    }
    Ok(ending.status(config.exit_port.is_some()))
}

/// One boot of the guest, up to its next reset or its end.
fn run_once(config: &Config, kvm: &Kvm, host: &mut Host) -> Result<Ending> {
    let control = Arc::new(Control::new()?);
    let mut machine = Machine::build(config, kvm, host, control.clone())?;
    let (vcpus, shared, console) = machine.parts();
    let kicks: Vec<Kick> = vcpus.iter_mut().map(Vcpu::kicker).collect();
    let (done, stopped) = mpsc::channel();
    let waited = thread::scope(|scope| {
        let mut threads = Vec::new();
        let mut started = Ok(());
        for vcpu in vcpus {
            let guard = Guard {
                control: control.clone(),
                done: done.clone(),
            };
            let spawned = thread::Builder::new()
                .name(format!("vcpu{}", vcpu.index))
                .spawn_scoped(scope, move || run_vcpu(vcpu, shared, guard));
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    started = Err(error).context("cannot start a thread for a vCPU");
                    control.end(Ending::Failed);
                    break;
                }
            }
        }
        let kick = || kicks.iter().for_each(kick_within_scope);
        let waited = started.and_then(|()| host.wait(&control, &console, &kick));
        control.end(Ending::Failed);
        stop(&kicks, &stopped, threads, host, &control);
        waited
    });
    waited?;
    Ok(control.ending().unwrap_or(Ending::Failed))
}

/// Says that a vCPU's thread is through, however that came.
struct Guard {
    control: Arc<Control>,
    done: Sender<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It changes nothing unless the vCPU gave up by itself.
        self.control.end(Ending::Failed);
        // Nobody listens any more only when the process is about to exit.
        let _ = self.done.send(());
    }
}

fn run_vcpu(vcpu: &mut Vcpu, shared: &Shared, guard: Guard) {
    vcpu.run(shared);
    drop(guard);
}

/// Kicks a vCPU of the run whose threads' scope the caller is in.
fn kick_within_scope(kick: &Kick) {
    // SAFETY: the vCPUs outlive the scope.
    unsafe { kick.kick() };
}

/// Stops all vCPU threads. If one does not stop, ends the process: its memory cannot be let go.
fn stop(
    kicks: &[Kick],
    stopped: &Receiver<()>,
    threads: Vec<ScopedJoinHandle<'_, ()>>,
    host: &Host,
    control: &Control,
) {
    kicks.iter().for_each(kick_within_scope);
    for _ in &threads {
        if stopped.recv_timeout(CONSOLE_LIMIT).is_ok() {
            continue;
        }
        // It may be waiting for somebody to read the console.
        host.close_output();
        if stopped.recv_timeout(STOP_LIMIT).is_err() {
            terminal::restore();
            say!("a vCPU does not stop; leaving it to the kernel");
            std::process::exit(i32::from(
                control.ending().unwrap_or(Ending::Failed).status(false),
            ));
        }
    }
    for thread in threads {
        // A panic would have ended the process.
        let _ = thread.join();
    }
}
