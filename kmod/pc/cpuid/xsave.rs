// SPDX-License-Identifier: GPL-2.0

//! Extended states: the bits of XCR0 and XSS, and the sizes of XSAVE areas
//! (APM volume 2, section 11.5; SDM volume 1, chapter 13).

use super::Answer;

/// x87.
pub const X87: u64 = 1 << 0;
/// XMM registers and MXCSR.
pub const SSE: u64 = 1 << 1;
/// Upper halves of the YMM registers.
pub const YMM: u64 = 1 << 2;
/// Bound registers and their configuration.
pub const MPX: u64 = 3 << 3;
/// Opmasks, upper halves of ZMM0-15, ZMM16-31.
pub const AVX512: u64 = 7 << 5;
/// User protection keys.
pub const PKRU: u64 = 1 << 9;
/// Tile configuration and data.
pub const AMX: u64 = 3 << 17;

/// What guests may use, as far as the host has it. Left out are: the bound
/// registers, gone from processors; tiles, too large to be given unasked;
/// lightweight profiling, gone as well.
pub const GUEST_XCR0: u64 = X87 | SSE | YMM | AVX512 | PKRU;

/// The legacy region and the header.
const BASE_SIZE: u32 = 512 + 64;
/// State components that have a place here.
const COMPONENTS: usize = 32;

/// A state component (CPUID leaf 0xd, subleaf 2 and up).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Component {
    size: u32,
    /// In the standard format.
    offset: u32,
    /// In the compacted format it starts at a multiple of 64.
    aligned: bool,
}

/// Where the processor puts the state components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XsaveLayout {
    components: [Component; COMPONENTS],
}

impl XsaveLayout {
    /// Reads the layout from the host's CPUID.
    pub fn of_host(host: &impl Fn(u32, u32) -> Answer) -> Self {
        let mut components = [Component::default(); COMPONENTS];
        for (component, index) in components.iter_mut().zip(0..) {
            // x87 and SSE have their place in the legacy region.
            if index < 2 {
                continue;
            }
            let leaf = host(0xd, index);
            *component = Component {
                size: leaf.eax,
                offset: leaf.ebx,
                aligned: leaf.ecx & 2 != 0,
            };
        }
        Self { components }
    }

    /// Bytes of an area in standard format with the states of `xcr0`.
    pub fn standard_size(&self, xcr0: u64) -> u32 {
        self.of(xcr0)
            .map(|component| component.offset.saturating_add(component.size))
            .fold(BASE_SIZE, u32::max)
    }

    /// Bytes of an area in compacted format with the states of `states`.
    pub fn compacted_size(&self, states: u64) -> u32 {
        self.of(states).fold(BASE_SIZE, |end, component| {
            let start = if component.aligned {
                end.saturating_add(63) & !63
            } else {
                end
            };
            start.saturating_add(component.size)
        })
    }

    /// The components of `states` that lie behind the header, in order.
    fn of(&self, states: u64) -> impl Iterator<Item = &Component> {
        let extended = states & !(X87 | SSE);
        self.components
            .iter()
            .zip(0u32..)
            .filter(move |(_, index)| extended >> index & 1 != 0)
            .map(|(component, _)| component)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Leaf 0xd of a processor with AVX-512 and PKRU.
    pub fn host(leaf: u32, index: u32) -> Answer {
        let (size, offset, ecx) = match (leaf, index) {
            (0xd, 0) => {
                return Answer {
                    eax: 0x2e7,
                    ebx: 2696,
                    ecx: 2696,
                    edx: 0,
                }
            }
            (0xd, 1) => {
                return Answer {
                    eax: 0xf,
                    ebx: 2568,
                    ecx: 0x1800,
                    edx: 0,
                }
            }
            (0xd, 2) => (256, 576, 0),
            (0xd, 5) => (64, 1088, 0),
            (0xd, 6) => (512, 1152, 0),
            (0xd, 7) => (1024, 1664, 0),
            (0xd, 9) => (8, 2688, 0),
            (0xd, 11) => (16, 0, 1),
            (0xd, 12) => (24, 0, 1),
            (0xd, 17) => (64, 2752, 2),
            (0xd, 18) => (8192, 2816, 6),
            _ => return Answer::ZERO,
        };
        Answer {
            eax: size,
            ebx: offset,
            ecx,
            edx: 0,
        }
    }

    #[test]
    fn sizes_are_those_processors_report() {
        let layout = XsaveLayout::of_host(&host);
        assert_eq!(layout.standard_size(X87), 576);
        assert_eq!(layout.standard_size(X87 | SSE), 576);
        assert_eq!(layout.standard_size(X87 | SSE | YMM), 832);
        assert_eq!(layout.standard_size(GUEST_XCR0), 2696);
        assert_eq!(layout.standard_size(GUEST_XCR0 | AMX), 11008);
        assert_eq!(layout.compacted_size(X87 | SSE | YMM), 832);
        // No gaps: 576 + 256 + 64 + 512 + 1024 + 8.
        assert_eq!(layout.compacted_size(GUEST_XCR0), 2440);
        // Tile configuration starts at a multiple of 64.
        assert_eq!(layout.compacted_size(GUEST_XCR0 | AMX), 2496 + 64 + 8192);
        assert_eq!(layout.standard_size(u64::MAX), 11008);
    }
}
