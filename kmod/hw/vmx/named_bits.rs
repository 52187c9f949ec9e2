// SPDX-License-Identifier: GPL-2.0

//! Words whose bits have names for people: in the log, in a dump.

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
    };
}

pub(crate) use named_bits;
