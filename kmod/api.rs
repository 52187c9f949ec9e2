// SPDX-License-Identifier: GPL-2.0

//! The ABI: which ioctl of which file does what.
//!
//! Each kind of file has one table, a row for each ioctl: its number, how its
//! argument travels, and the method that serves it. What a method does is
//! written in `vm`; this layer copies arguments and checks nothing but them.

pub mod capability;
pub mod list;
mod system;
mod vcpu;
mod vm;

pub use system::SystemFile;

/// Serves one ioctl from a table, which ends with the error for all others. A
/// row is `NUMBER => KIND CALL`, where KIND is
/// one of
///
/// - `none`: the argument is not used, or is a number (`raw` then);
/// - `input`: a structure is copied in and passed by reference;
/// - `output`: a structure is returned and copied out;
/// - `both`: a structure is copied in, passed by mutable reference, and copied
///   out if the call succeeds;
/// - `raw`: the call gets the argument itself and gives the ioctl's result.
macro_rules! ioctl_table {
    ($cmd:expr, $arg:expr; $($number:ident => $kind:ident $call:expr;)* _ => $unknown:ident) => {
        match $cmd {
            $(crate::uapi::$number => ioctl_table!(@$kind $arg, $call),)*
            _ => Err(kernel::error::code::$unknown),
        }
    };
    (@none $arg:expr, $call:expr) => {
        $call().map(|()| 0)
    };
    (@input $arg:expr, $call:expr) => {
        $arg.read().and_then(|value| $call(&value)).map(|()| 0)
    };
    (@output $arg:expr, $call:expr) => {
        $call().and_then(|value| $arg.write(&value)).map(|()| 0)
    };
    (@both $arg:expr, $call:expr) => {
        $arg.read()
            .and_then(|mut value| $call(&mut value).map(|()| value))
            .and_then(|value| $arg.write(&value))
            .map(|()| 0)
    };
    (@raw $arg:expr, $call:expr) => {
        $call($arg)
    };
}
use ioctl_table;
