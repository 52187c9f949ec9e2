// SPDX-License-Identifier: GPL-2.0-or-later

//! The KVM ABI for x86 as Rust types.
//!
//! Names, layouts and numbers are those of `linux/kvm.h`, `asm/kvm.h` and
//! `asm/kvm_para.h` of Linux 7.2, less what other architectures, SEV, TDX and
//! Xen guests have there. Compiled twice: as the crate `ironvm-uapi`, and by
//! `#[path]` into the kernel module; so it depends on `core` alone.
//!
//! Every structure that crosses the ABI is declared with [`abi_struct!`],
//! which proves at compile time that it has the size it must have and no
//! padding, and so may be copied to and from userspace byte by byte
//! ([`Pod`]). What is a union in C is one of two things here: the one field
//! that has the union's width when its members differ in name only, or an
//! overlay ([`abi_overlay!`]) with a safe getter and setter for each member.

#![allow(non_camel_case_types, unused_imports)]

/// A type that may be copied bytewise from and to an untrusted party.
///
/// # Safety
///
/// Every bit pattern of the type's size is a valid value, and the type has no
/// padding, so that all bytes of a value are initialised.
pub unsafe trait Pod: Copy + 'static {
    /// The value whose bytes are all zero.
    #[must_use]
    fn zeroed() -> Self {
        // SAFETY: every bit pattern is valid, by the trait's contract.
        unsafe { core::mem::zeroed() }
    }

    /// The value's bytes.
    #[must_use]
    fn as_bytes(&self) -> &[u8] {
        let first = core::ptr::from_ref(self).cast::<u8>();
        // SAFETY: a `Pod` has no padding, so all `size_of` bytes of the
        // borrowed value are initialised.
        unsafe { core::slice::from_raw_parts(first, core::mem::size_of::<Self>()) }
    }

    /// The value's bytes, to be written.
    #[must_use]
    fn as_bytes_mut(&mut self) -> &mut [u8] {
        let first = core::ptr::from_mut(self).cast::<u8>();
        // SAFETY: as for `as_bytes`; and whatever bytes are put there form a
        // valid value.
        unsafe { core::slice::from_raw_parts_mut(first, core::mem::size_of::<Self>()) }
    }

    /// The value at the start of `bytes`, which need not be aligned; `None`
    /// when they are too few.
    #[must_use]
    fn read_from(bytes: &[u8]) -> Option<Self> {
        let mut value = Self::zeroed();
        let source = bytes.get(..core::mem::size_of::<Self>())?;
        value.as_bytes_mut().copy_from_slice(source);
        Some(value)
    }
}

macro_rules! pod_primitives {
    ($($primitive:ty),*) => {
        // SAFETY: integers have no padding and no invalid values.
        $(unsafe impl Pod for $primitive {})*
    };
}
pod_primitives!(u8, i8, u16, i16, u32, i32, u64, i64);

// SAFETY: an array has no padding besides its elements'.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// Fails to compile for a type that is not [`Pod`]; returns its size.
const fn pod_size<T: Pod>() -> usize {
    core::mem::size_of::<T>()
}

/// Declares a structure of the ABI of the given size in bytes.
macro_rules! abi_struct {
    (
        $(#[$meta:meta])*
        $name:ident: $size:literal {
            $($(#[$field_meta:meta])* $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            $(#[allow(missing_docs)] $(#[$field_meta])* pub $field: $type,)*
        }

        const _: () = assert!(core::mem::size_of::<$name>() == $size);
        // The fields fill the structure: there is no padding.
        const _: () = assert!($size == 0 $(+ super::pod_size::<$type>())*);

        // SAFETY: all fields are `Pod` (`pod_size` asks for it) and, as the
        // assertions above prove, nothing lies between or behind them.
        unsafe impl super::Pod for $name {}

        impl Default for $name {
            fn default() -> Self {
                <Self as super::Pod>::zeroed()
            }
        }
    };
}

/// Declares what is a union in C: bytes with a getter and a setter for each
/// member. A member is shorter than the whole or as long.
macro_rules! abi_overlay {
    (
        $(#[$meta:meta])*
        $name:ident: [$word:ty; $words:literal] {
            $($(#[$member_meta:meta])* $get:ident, $set:ident: $type:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            /// The members' common storage.
            pub words: [$word; $words],
        }

        // SAFETY: it is an array of integers.
        unsafe impl super::Pod for $name {}

        impl Default for $name {
            fn default() -> Self {
                <Self as super::Pod>::zeroed()
            }
        }

        impl $name {
            $(
                $(#[$member_meta])*
                #[must_use]
                pub fn $get(&self) -> $type {
                    const { assert!(super::pod_size::<$type>() <= core::mem::size_of::<$name>()) }
                    <$type as super::Pod>::read_from(super::Pod::as_bytes(self))
                        .unwrap_or_else(super::Pod::zeroed)
                }

                $(#[$member_meta])*
                pub fn $set(&mut self, value: $type) {
                    let bytes = super::Pod::as_bytes(&value);
                    if let Some(place) = super::Pod::as_bytes_mut(self).get_mut(..bytes.len()) {
                        place.copy_from_slice(bytes);
                    }
                }
            )*
        }
    };
}

#[path = "abi/caps.rs"]
mod caps;
#[path = "abi/cpu.rs"]
mod cpu;
#[path = "abi/errno.rs"]
pub mod errno;
#[path = "abi/ioctl.rs"]
mod ioctl;
#[path = "abi/irq.rs"]
mod irq;
#[path = "abi/memory.rs"]
mod memory;
#[path = "abi/nested.rs"]
mod nested;
#[path = "abi/para.rs"]
mod para;
#[path = "abi/run.rs"]
mod run;
#[path = "abi/vm.rs"]
mod vm;

pub use caps::*;
pub use cpu::*;
pub use ioctl::*;
pub use irq::*;
pub use memory::*;
pub use nested::*;
pub use para::*;
pub use run::*;
pub use vm::*;
