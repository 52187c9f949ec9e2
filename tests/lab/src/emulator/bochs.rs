// SPDX-License-Identifier: GPL-2.0-or-later

//! Bochs, for VMX.

mod disk;
mod loader;
mod log;
mod make;
mod sealed;

use super::{Emulator, End, Machine, Running, Sharing};
use crate::inside::tail;
use crate::setup::Platform;
use anyhow::{bail, Context, Result};
use sealed::Sealed;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Bochs emulates VMX with EPT.
pub struct Bochs;

/// The processor when none is asked for. It has little more than is needed.
const MODEL: &str = "corei7_ivy_bridge_3770k";
/// Those that have AMD's virtualization, with nested paging.
const AMD_MODELS: [&str; 4] = ["phenom_8650_toliman", "zambezi", "trinity_apu", "ryzen"];
/// What models are not to have, by Bochs' names of features. AMX comes with XFD on
/// every processor, and Bochs does not know that: Linux then switches on half of
/// AMX's state by XSETBV, which is refused.
const EXCLUDED: [(&str, &str); 1] = [("sapphire_rapids", "amx, amx_int8, amx_bf16")];
/// Where the run's folder is seen inside the root.
const RUN: &str = "/run/lab";
/// Where the folder of its program is seen there.
const PROGRAM: &str = "/run/bochs";
/// Bochs has no more.
const MAX_MEMORY_MIB: u32 = 2048;
/// How many instructions make a second for the machine. The TSC counts them.
const INSTRUCTIONS_PER_SECOND: u32 = 100_000_000;

impl Emulator for Bochs {
    fn port(&self) -> &'static str {
        "/dev/ttyS1"
    }

    fn append(&self) -> &'static str {
        // Time is what the instructions make it: nothing to calibrate. From
        // skylake on CPUID has frequencies that are not Bochs': by them the
        // clock would be 35 times too slow and timers go off in storms. A reset
        // by triple fault ends Bochs. Without KASLR runs repeat.
        "tsc=reliable tsc_early_khz=100000 no_timer_check lpj=1000000 reboot=t nokaslr cryptomgr.notests"
    }

    fn end(&self) -> End {
        End::PowerOff
    }

    fn sharing(&self) -> Sharing {
        // There is neither a network nor any other way in.
        Sharing::Copy
    }

    fn default_memory_mib(&self) -> u32 {
        1024
    }

    fn stock_module(&self, model: Option<&str>) -> &'static str {
        match model {
            Some(model) if AMD_MODELS.contains(&model) => "kvm_amd",
            _ => "kvm_intel",
        }
    }

    fn check(&self, model: Option<&str>, memory_mib: u32) -> Result<()> {
        if memory_mib > MAX_MEMORY_MIB {
            bail!(
                "a machine in Bochs (--vendor vmx) has at most {MAX_MEMORY_MIB} MiB of memory, not {memory_mib}"
            );
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if let Some(model) = model.filter(|model| !model.chars().all(plain)) {
            bail!("{model:?} is no model of Bochs, such as {MODEL}");
        }
        Ok(())
    }

    fn start(&self, machine: &Machine) -> Result<Running> {
        let program = make::made(machine.platform)?;
        let vmlinux = vmlinux(machine.platform)?;
        let contents = disk::Contents {
            kernel: &machine.platform.vmlinuz(),
            vmlinux: &vmlinux,
            command_line: &machine.append,
            initrd: &machine.run.join("initrd"),
            memory_mib: machine.memory_mib,
        };
        disk::write(&machine.run.join("disk"), &contents)?;

        let network = Sealed::new()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        fs::write(machine.run.join("bochsrc"), bochsrc(machine, port))?;
        let output = File::create(machine.run.join("emulator"))?;
        let mut process = machine
            .platform
            .inside()
            .bind(machine.run, RUN)
            .bind_read_only(&program, PROGRAM)
            .command(format!("{PROGRAM}/bochs"))?
            .args(["-q", "-f", &format!("{RUN}/bochsrc")])
            .stdout(output.try_clone()?)
            .stderr(output)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start Bochs")?;
        network.leave()?;
        let line = match accept(&listener, &mut process) {
            Ok(line) => OwnedFd::from(line),
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                let said = || fs::read_to_string(machine.run.join("emulator")).unwrap_or_default();
                let why = self
                    .failure(machine.run)
                    .unwrap_or_else(|| tail(&said(), 3));
                bail!("Bochs does not start: {error}:\n{why}");
            }
        };
        Ok(Running {
            from_agent: File::from(line.try_clone()?),
            to_agent: File::from(line),
            processes: vec![process],
        })
    }

    fn failure(&self, run: &Path) -> Option<String> {
        // Before it knows of its log it complains on its standard error.
        ["bochs.log", "emulator"].iter().find_map(|file| {
            let text = fs::read(run.join(file)).ok()?;
            log::panic(&String::from_utf8_lossy(&text)).map(|why| format!("Bochs: {why}"))
        })
    }
}

/// Waits until Bochs has connected its serial line.
fn accept(listener: &TcpListener, process: &mut Child) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let give_up = Instant::now() + Duration::from_secs(30);
    loop {
        match listener.accept() {
            Ok((line, _)) => {
                line.set_nonblocking(false)?;
                line.set_nodelay(true)?;
                return Ok(line);
            }
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                return Err(error.into())
            }
            Err(_) => {}
        }
        if let Some(status) = process.try_wait()? {
            bail!("it ended with {status}");
        }
        if Instant::now() > give_up {
            bail!("it has not connected its serial line");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The stock kernel, decompressed; made when missing.
fn vmlinux(platform: &Platform) -> Result<PathBuf> {
    let images = platform.dir.join("images");
    let file = images.join(format!("vmlinux-{}", platform.release));
    let _lock = crate::place::lock(&platform.dir.join("images.lock"))?;
    if file.exists() {
        return Ok(file);
    }
    fs::create_dir_all(&images)?;
    let compressed = images.join("vmlinux.zst");
    let kernel = fs::read(platform.vmlinuz())?;
    fs::write(&compressed, disk::payload(&kernel)?)?;
    let new = images.join("vmlinux.new");
    let status = platform
        .inside()
        .command("zstd")?
        .args(["-dqc"])
        .stdin(File::open(&compressed)?)
        .stdout(File::create(&new)?)
        .status()?;
    fs::remove_file(compressed)?;
    if !status.success() {
        bail!("the stock kernel cannot be decompressed by zstd ({status})");
    }
    fs::rename(new, &file)?;
    Ok(file)
}

/// The configuration of Bochs for `machine`, whose serial line for the agent is
/// at the TCP port `port`.
fn bochsrc(machine: &Machine, port: u16) -> String {
    let model = machine.model.unwrap_or(MODEL);
    let (cpus, memory) = (machine.cpus, machine.memory_mib);
    let excluded = EXCLUDED.iter().find(|(of, _)| *of == model);
    let excluded = excluded.map_or(String::new(), |(_, features)| {
        format!(", exclude_features=\"{features}\"")
    });
    format!(
        "config_interface: textconfig\n\
         display_library: nogui\n\
         plugin_ctrl: parallel=0, speaker=0\n\
         memory: guest={memory}, host={memory}\n\
         romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
         vgaromimage: file=/usr/share/vgabios/vgabios.bin\n\
         cpu: model={model}, count={cpus}, ips={INSTRUCTIONS_PER_SECOND}, reset_on_triple_fault=0, ignore_bad_msrs=1{excluded}\n\
         clock: sync=none, time0=utc\n\
         pci: enabled=1, chipset=i440fx\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=disk, path={RUN}/disk, mode=flat\n\
         boot: disk\n\
         com1: enabled=1, mode=file, dev={RUN}/console\n\
         com2: enabled=1, mode=socket-client, dev=127.0.0.1:{port}\n\
         panic: action=fatal\n\
         error: action=ignore\n\
         info: action=ignore\n\
         log: {RUN}/bochs.log\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine<'a>(platform: &'a Platform, model: Option<&'a str>) -> Machine<'a> {
        Machine {
            platform,
            model,
            cpus: 2,
            memory_mib: 512,
            count: false,
            kernel: PathBuf::new(),
            append: String::new(),
            run: Path::new("/nowhere"),
            share: None,
        }
    }

    #[test]
    fn the_machine_is_as_asked_for() {
        let platform = Platform {
            dir: PathBuf::new(),
            release: String::new(),
        };
        let text = bochsrc(&machine(&platform, None), 4711);
        assert!(text.contains("memory: guest=512, host=512\n"));
        assert!(text.contains("cpu: model=corei7_ivy_bridge_3770k, count=2,"));
        assert!(text.contains("dev=127.0.0.1:4711\n"));
        let text = bochsrc(&machine(&platform, Some("corei7_skylake_x")), 1);
        assert!(text.contains("cpu: model=corei7_skylake_x,"));
        assert!(!text.contains("exclude_features"));
        let text = bochsrc(&machine(&platform, Some("sapphire_rapids")), 1);
        assert!(text.contains(", exclude_features=\"amx, amx_int8, amx_bf16\"\n"));
    }

    #[test]
    fn the_kernel_is_told_how_fast_the_tsc_is() {
        let told = format!(" tsc_early_khz={} ", INSTRUCTIONS_PER_SECOND / 1000);
        assert!(Bochs.append().contains(&told));
    }

    #[test]
    fn what_bochs_cannot_do_is_refused() {
        assert!(Bochs.check(None, 2048).is_ok());
        assert!(Bochs.check(Some("corei7_skylake_x"), 512).is_ok());
        let error = Bochs.check(None, 4096).unwrap_err().to_string();
        assert!(error.contains("at most 2048 MiB"), "{error}");
        assert!(Bochs.check(Some("x, count=9"), 512).is_err());
    }
}
