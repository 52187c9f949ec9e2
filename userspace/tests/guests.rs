// SPDX-License-Identifier: GPL-2.0-or-later

//! How runs end, tried with guests of a few instructions each.
//!
//! They need a working `/dev/kvm`, so they are ignored unless asked for:
//! `cargo test --package ironvm --test guests -- --ignored`. `IRONVM` may name the program to try.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the guest's code lies, and is entered in 32-bit mode.
const BASE: u32 = 0x100_0000;
/// Where the code begins in the file.
const CODE_OFFSET: u32 = 0x1000;

/// An ELF kernel with a PVH entry point at the beginning of `code`.
fn kernel(code: &[u8]) -> Vec<u8> {
    const NOTE_OFFSET: u32 = 0x800;
    let mut image = vec![0; CODE_OFFSET as usize];
    let mut put =
        |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(24, &u64::from(BASE).to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(52, &64u16.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &2u16.to_le_bytes());
    let size = code.len() as u32;
    for (index, (kind, offset, address, size)) in
        [(1, CODE_OFFSET, BASE, size), (4, NOTE_OFFSET, 0, 20)]
            .into_iter()
            .enumerate()
    {
        let header = 64 + index * 56;
        put(header, &u32::to_le_bytes(kind));
        put(header + 4, &5u32.to_le_bytes());
        put(header + 8, &u64::from(offset).to_le_bytes());
        put(header + 16, &u64::from(address).to_le_bytes());
        put(header + 24, &u64::from(address).to_le_bytes());
        put(header + 32, &u64::from(size).to_le_bytes());
        put(header + 40, &u64::from(size).to_le_bytes());
        put(header + 48, &4u64.to_le_bytes());
    }
    let note = [
        &4u32.to_le_bytes()[..],
        &4u32.to_le_bytes(),
        &18u32.to_le_bytes(),
        b"Xen\0",
        &BASE.to_le_bytes(),
    ];
    put(NOTE_OFFSET as usize, &note.concat());
    image.extend_from_slice(code);
    image
}

/// A guest in a file of its own.
struct Guest {
    directory: PathBuf,
}

impl Guest {
    fn new(code: &[u8]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let directory =
            std::env::temp_dir().join(format!("ironvm-guest-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("kernel"), kernel(code)).unwrap();
        Self { directory }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let program =
            std::env::var_os("IRONVM").unwrap_or_else(|| env!("CARGO_BIN_EXE_ironvm").into());
        let mut command = Command::new(program);
        command
            .args(["run", "--no-reboot", "--memory", "32M", "--kernel"])
            .arg(self.directory.join("kernel"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs the guest to its end.
    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Starts the guest and waits until it wrote something to its console.
    fn start(&self, arguments: &[&str]) -> Child {
        use std::io::Read;
        let mut child = self
            .command(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut byte = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut byte)
            .unwrap();
        child
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn status(output: &Output) -> i32 {
    output
        .status
        .code()
        .unwrap_or_else(|| panic!("ended by a signal: {output:?}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `mov dx, port; mov ax, value; out dx, ax`
fn out_word(port: u16, value: u16) -> Vec<u8> {
    let ([a, b], [c, d]) = (port.to_le_bytes(), value.to_le_bytes());
    vec![0x66, 0xba, a, b, 0x66, 0xb8, c, d, 0x66, 0xef]
}

/// `mov dx, port; mov al, value; out dx, al`
fn out_byte(port: u16, value: u8) -> Vec<u8> {
    let [a, b] = port.to_le_bytes();
    vec![0x66, 0xba, a, b, 0xb0, value, 0xee]
}

const JUMP_TO_SELF: &[u8] = &[0xeb, 0xfe];
const HALT: &[u8] = &[0xfa, 0xf4];

fn power_off() -> Vec<u8> {
    out_word(0x604, 0x3400)
}

#[test]
#[ignore = "needs /dev/kvm"]
fn power_off_is_success() {
    let guest = Guest::new(&power_off());
    assert_eq!(status(&guest.run(&[])), 0);
    assert_eq!(
        status(&guest.run(&["--exit-port"])),
        119,
        "nothing was reported"
    );
}

#[test]
#[ignore = "needs /dev/kvm"]
fn reported_status_is_passed_on() {
    for value in [0, 7, 255] {
        let guest = Guest::new(&out_byte(0xf4, value));
        assert_eq!(status(&guest.run(&["--exit-port"])), i32::from(value));
    }
    let guest = Guest::new(&out_byte(0x501, 3));
    assert_eq!(status(&guest.run(&["--exit-port=0x501"])), 3);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn every_way_to_reset() {
    for code in [out_byte(0x64, 0xfe), out_byte(0xcf9, 6)] {
        assert_eq!(status(&Guest::new(&code).run(&[])), 120);
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn panic_is_told() {
    assert_eq!(status(&Guest::new(&out_byte(0x505, 1)).run(&[])), 121);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn triple_fault() {
    // The interrupt descriptor table is empty: ud2
    let output = Guest::new(&[0x0f, 0x0b]).run(&[]);
    assert_eq!(status(&output), 122);
    assert!(
        stderr(&output).contains("triple fault"),
        "{}",
        stderr(&output)
    );
}

#[test]
#[ignore = "needs /dev/kvm"]
fn code_where_there_is_no_memory_is_reported_with_registers() {
    // mov eax, 0xe8000000; jmp eax
    let output = Guest::new(&[0xb8, 0, 0, 0, 0xe8, 0xff, 0xe0]).run(&[]);
    assert_eq!(status(&output), 123);
    let report = stderr(&output);
    assert!(report.contains("rip  00000000e8000000"), "{report}");
    assert!(report.contains("<??>"), "{report}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn string_output_arrives_byte_by_byte() {
    // mov esi, text; mov ecx, 5; mov dx, 0x3f8; rep outsb; then power-off; then the text
    let mut code = vec![
        0xbe, 0, 0, 0, 0, 0xb9, 5, 0, 0, 0, 0x66, 0xba, 0xf8, 0x03, 0xf3, 0x6e,
    ];
    code.extend(power_off());
    let text = BASE + code.len() as u32;
    code[1..5].copy_from_slice(&text.to_le_bytes());
    code.extend(b"hello");
    let guest = Guest::new(&code);
    assert_eq!(guest.run(&[]).stdout, b"hello");
    let log = guest.directory.join("log");
    let console = format!("file:{}", log.display());
    assert_eq!(status(&guest.run(&["--console", &console])), 0);
    assert_eq!(fs::read(log).unwrap(), b"hello");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn busy_and_idle_guests_can_be_ended() {
    for tail in [JUMP_TO_SELF, HALT] {
        let code = [out_byte(0x3f8, b'.'), tail.to_vec()].concat();
        for cpus in ["1", "3"] {
            let guest = Guest::new(&code);
            let mut child = guest.start(&["--cpus", cpus]);
            let killed = Command::new("kill")
                .arg(child.id().to_string())
                .status()
                .unwrap();
            assert!(killed.success());
            assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
        }
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_disk_in_use_is_refused() {
    let guest = Guest::new(&[out_byte(0x3f8, b'.'), HALT.to_vec()].concat());
    let disk = guest.directory.join("disk");
    File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let disk = disk.to_str().unwrap();
    let mut first = guest.start(&["--disk", disk]);
    let second = guest.run(&["--disk", disk]);
    assert_eq!(status(&second), 125);
    assert!(
        stderr(&second).contains("another guest"),
        "{}",
        stderr(&second)
    );
    first.kill().unwrap();
    first.wait().unwrap();
    // The lock went with its holder.
    let mut third = guest.start(&["--disk", disk]);
    third.kill().unwrap();
    third.wait().unwrap();
}
