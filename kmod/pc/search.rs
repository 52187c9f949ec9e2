// SPDX-License-Identifier: GPL-2.0

//! Searches in slices.
//!
//! What `core` has for this counts with overflow checks, which the compiler
//! cannot prove away; these cannot overflow and so cannot panic.

/// The index of the first element for which `before` does not hold, in a slice
/// that has all those for which it holds in front.
#[inline]
pub fn partition_point<T>(slice: &[T], mut before: impl FnMut(&T) -> bool) -> usize {
    let mut low = 0usize;
    let mut size = slice.len();
    while size > 0 {
        let half = size / 2;
        let middle = low.wrapping_add(half);
        match slice.get(middle) {
            Some(element) if before(element) => {
                low = middle.wrapping_add(1);
                size = size.wrapping_sub(half).wrapping_sub(1);
            }
            _ => size = half,
        }
    }
    low
}

/// The index of the first element for which `wanted` holds.
#[inline]
pub fn position<T>(slice: &[T], mut wanted: impl FnMut(&T) -> bool) -> Option<usize> {
    let mut index = 0usize;
    for element in slice {
        if wanted(element) {
            return Some(index);
        }
        index = index.wrapping_add(1);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn they_agree_with_the_standard_library(
            mut values in prop::collection::vec(0u8..20, 0..40), wanted in 0u8..22,
        ) {
            let found = position(&values, |value| *value == wanted);
            prop_assert_eq!(found, values.iter().position(|value| *value == wanted));
            values.sort_unstable();
            let point = partition_point(&values, |value| *value < wanted);
            prop_assert_eq!(point, values.partition_point(|value| *value < wanted));
        }
    }
}
