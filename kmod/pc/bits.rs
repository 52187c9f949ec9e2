// SPDX-License-Identifier: GPL-2.0

//! Registers and control words: integers whose bits have names.

/// Declares a type of its own over an integer, with named bits.
macro_rules! bits {
    (
        $(#[$doc:meta])*
        $name:ident: $repr:ty { $( $(#[$bitdoc:meta])* $bit:ident = $value:expr; )* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        #[allow(dead_code, reason = "declared whole")]
        impl $name {
            $( $(#[$bitdoc])* pub const $bit: Self = Self($value); )*

            /// The raw value.
            #[inline]
            pub const fn bits(self) -> $repr {
                self.0
            }

            /// Are all bits of `bits` set?
            #[inline]
            pub const fn has(self, bits: Self) -> bool {
                self.0 & bits.0 == bits.0
            }

            /// Is any bit of `bits` set?
            #[inline]
            pub const fn any(self, bits: Self) -> bool {
                self.0 & bits.0 != 0
            }

            /// This value with `bits` set.
            #[inline]
            pub const fn with(self, bits: Self) -> Self {
                Self(self.0 | bits.0)
            }

            /// This value with `bits` clear.
            #[inline]
            pub const fn without(self, bits: Self) -> Self {
                Self(self.0 & !bits.0)
            }

            /// This value with `bits` set or clear, as `on` says.
            #[inline]
            pub const fn assign(self, bits: Self, on: bool) -> Self {
                if on {
                    self.with(bits)
                } else {
                    self.without(bits)
                }
            }

            /// Sets or clears `bits`, as `on` says.
            #[inline]
            pub fn set(&mut self, bits: Self, on: bool) {
                *self = self.assign(bits, on);
            }

            /// The bits in which the two values differ.
            #[inline]
            pub const fn changed(self, other: Self) -> Self {
                Self(self.0 ^ other.0)
            }
        }

        impl core::ops::BitOr for $name {
            type Output = Self;
            #[inline]
            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }

        impl core::ops::BitOrAssign for $name {
            #[inline]
            fn bitor_assign(&mut self, other: Self) {
                self.0 |= other.0;
            }
        }

        impl core::ops::BitAnd for $name {
            type Output = Self;
            #[inline]
            fn bitand(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }
        }

        impl core::ops::Not for $name {
            type Output = Self;
            #[inline]
            fn not(self) -> Self {
                Self(!self.0)
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
    };
}

/// As [`bits!`], with a number and a name for people for each bit.
macro_rules! named_bits {
    (
        $(#[$doc:meta])*
        $name:ident: $repr:ty { $( $bit:ident = $number:expr, $words:expr; )* }
    ) => {
        crate::pc::bits::bits! {
            $(#[$doc])*
            $name: $repr {
                $( #[doc = concat!("Bit ", stringify!($number), ": ", $words, ".")] $bit = 1 << $number; )*
                /// None.
                NONE = 0;
                /// All that have a name here.
                NAMED = 0 $( | 1 << $number )*;
            }
        }

        #[allow(dead_code, reason = "declared whole")]
        impl $name {
            /// Each bit with its name.
            const NAMES: &'static [(Self, &'static str)] = &[ $( (Self::$bit, $words), )* ];

            /// Hands the name of each set bit that has one to `each`.
            ///
            /// # Errors
            ///
            /// The first that `each` gives.
            pub fn names(self, mut each: impl FnMut(&'static str) -> core::fmt::Result) -> core::fmt::Result {
                for (bit, name) in Self::NAMES {
                    if self.has(*bit) {
                        each(name)?;
                    }
                }
                Ok(())
            }
        }

        impl core::fmt::Display for $name {
            /// The names of the set bits.
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                let mut separator = "";
                self.names(|name| {
                    f.write_str(separator)?;
                    separator = ", ";
                    f.write_str(name)
                })
            }
        }
    };
}

pub(crate) use bits;
pub(crate) use named_bits;
