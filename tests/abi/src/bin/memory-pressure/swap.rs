// SPDX-License-Identifier: GPL-2.0-or-later

//! Swap space: what the host has, or a zram device if the kernel can make one.

use std::ffi::CString;
use std::io::{Seek, SeekFrom, Write};

use ironvm_abi_tests::sys::{check, SysResult};
use ironvm_abi_tests::{skip, Failure};

const SIZE: u64 = 512 << 20;
const PAGE: u64 = 4096;

/// Swap that is on; what was switched on here is switched off again.
pub struct Swap(Option<CString>);

impl Drop for Swap {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // SAFETY: a string that ends in a zero byte.
            unsafe { libc::swapoff(path.as_ptr()) };
        }
    }
}

/// Uses the host's swap, or makes some.
pub fn on() -> Result<Swap, Failure> {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps.lines().count() > 1 {
        return Ok(Swap(None));
    }
    let size = "/sys/block/zram0/disksize";
    if std::fs::write(size, SIZE.to_string()).is_err() {
        skip!("no swap, and no zram device to make it of");
    }
    let path = "/dev/zram0";
    if let Err(e) = format(path) {
        skip!("{path}: {e}");
    }
    let path = CString::new(path).unwrap_or_default();
    switch_on(&path)?;
    Ok(Swap(Some(path)))
}

fn switch_on(path: &CString) -> SysResult<()> {
    // SAFETY: a string that ends in a zero byte.
    let r = unsafe { libc::swapon(path.as_ptr(), 0) };
    check("swapon", i64::from(r)).map(drop)
}

/// What `mkswap` writes: version, last page and the signature at the end of the first page.
fn format(path: &str) -> std::io::Result<()> {
    let mut header = vec![0u8; PAGE as usize];
    header[1024..1028].copy_from_slice(&1u32.to_le_bytes());
    let last = (SIZE / PAGE - 1) as u32;
    header[1028..1032].copy_from_slice(&last.to_le_bytes());
    header[PAGE as usize - 10..].copy_from_slice(b"SWAPSPACE2");
    let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header)?;
    file.sync_all()
}
