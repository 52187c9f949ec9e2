// SPDX-License-Identifier: GPL-2.0

//! Feeds the fuzzers random bytes: no coverage, but no tools either.
//! `random <seconds> [seed]`; a failure tells the seed to repeat it with.

use std::time::{Duration, Instant};

use ironvm_pc_fuzz::machine::Random;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| {
        let given = arguments.next().map(|text| text.parse());
        given.unwrap_or(Ok(default)).expect("a number")
    };
    let limit = Duration::from_secs(number(10));
    let mut seed = number(1);
    let start = Instant::now();
    let mut inputs = 0_u64;
    while start.elapsed() < limit {
        let told = std::panic::catch_unwind(|| one(seed));
        if told.is_err() {
            eprintln!("failed with seed {seed}");
            std::process::exit(1);
        }
        inputs += 1;
        seed += 1;
    }
    println!("{inputs} inputs, seeds up to {seed}");
}

fn one(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut bytes = [0; 300];
    for chunk in bytes.chunks_exact_mut(4) {
        chunk.copy_from_slice(&(random.next() >> 32).to_le_bytes()[..4]);
    }
    // Instructions begin at various places, so that all get their share of
    // the prefixes and escapes a random byte seldom is.
    let introductions: [&[u8]; 8] = [
        &[0x0f],
        &[0x66, 0x0f],
        &[0xf3, 0x0f],
        &[0x48, 0x0f],
        &[0xf3],
        &[0xf0],
        &[0x66, 0x48],
        &[0x0f, 0x38],
    ];
    let introduction = random.pick(&introductions);
    let at = 1 + random.below(200) as usize;
    bytes[at..at + introduction.len()].copy_from_slice(introduction);
    bytes[1..1 + introduction.len()].copy_from_slice(introduction);
    ironvm_pc_fuzz::all(&bytes);
}
