// SPDX-License-Identifier: GPL-2.0-or-later

//! Guest code, written in place.
//!
//! `code16!`, `code32!` and `code64!` assemble lines of Intel syntax into a read-only section and
//! give the bytes. The code must not refer to anything outside itself; it is copied into the guest
//! by the loader, so jumps within it must be relative. Labels are local numbers from 2 up (`2:`,
//! `jmp 2b`); 7700 and 7701 are taken. Constants can be passed as `NAME = const VALUE`.

/// Guest code for the mode that the assembler directive in the first argument names.
#[macro_export]
macro_rules! guest_code {
    ($mode:literal, $($line:literal),+ $(, $name:ident = const $value:expr)* $(,)?) => {
        $crate::guest_code!(@lines $mode, [$($line),+] $(, $name = const $value)*)
    };
    // Lines may be made of parts with `concat!`.
    (@lines $mode:literal, [$($line:expr),+] $(, $name:ident = const $value:expr)*) => {{
        let start: *const u8;
        let end: *const u8;
        // SAFETY: the bytes go to a read-only section and are never run here; the only
        // instructions in this function take the addresses of their two ends.
        unsafe {
            ::core::arch::asm!(
                ".pushsection .rodata.guest_code, \"a\", @progbits",
                $mode,
                "7700:",
                $($line,)+
                "7701:",
                ".code64",
                ".popsection",
                "lea {guest_code_start}, [rip + 7700b]",
                "lea {guest_code_end}, [rip + 7701b]",
                guest_code_start = out(reg) start,
                guest_code_end = out(reg) end,
                $($name = const $value,)*
                options(pure, nomem, nostack, preserves_flags),
            );
            let bytes: &'static [u8] =
                ::core::slice::from_raw_parts(start, end as usize - start as usize);
            bytes
        }
    }};
}

/// Bytes of 16-bit guest code.
#[macro_export]
macro_rules! code16 { ($($args:tt)+) => { $crate::guest_code!(".code16", $($args)+) }; }

/// Bytes of 32-bit guest code.
#[macro_export]
macro_rules! code32 { ($($args:tt)+) => { $crate::guest_code!(".code32", $($args)+) }; }

/// Bytes of 64-bit guest code.
#[macro_export]
macro_rules! code64 { ($($args:tt)+) => { $crate::guest_code!(".code64", $($args)+) }; }
