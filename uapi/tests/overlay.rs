// SPDX-License-Identifier: GPL-2.0-or-later

//! Overlays behave as the unions they stand for.

use ironvm_uapi::{kvm_irqchip, kvm_pic_state, kvm_run, kvm_run_io, kvm_run_mmio, Pod};

#[test]
fn members_share_their_storage() {
    let mut run = kvm_run::default();
    run.exit.set_mmio(kvm_run_mmio {
        phys_addr: 0x1122_3344_5566_7788,
        ..Default::default()
    });
    let io = run.exit.io();
    assert_eq!((io.direction, io.size, io.port), (0x88, 0x77, 0x5566));
    run.exit.set_io(kvm_run_io {
        direction: 1,
        size: 4,
        port: 0x3f8,
        count: 1,
        data_offset: 4096,
    });
    assert_eq!(run.exit.mmio().phys_addr, 0x0000_0001_03f8_0401);
    assert_eq!(run.as_bytes()[32..36], [1, 4, 0xf8, 3]);
}

#[test]
fn setting_a_short_member_leaves_the_rest() {
    let mut chip = kvm_irqchip::default();
    chip.chip.words[63] = 7;
    let pic = kvm_pic_state {
        elcr_mask: 0xde,
        ..Default::default()
    };
    chip.chip.set_pic(pic);
    assert_eq!(chip.chip.pic(), pic);
    assert_eq!(chip.chip.words[1].to_le_bytes()[7], 0xde);
    assert_eq!(chip.chip.words[63], 7);
}

#[test]
fn reading_takes_unaligned_bytes_and_enough_of_them() {
    let bytes = [0u8, 1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!(u64::read_from(&bytes[1..]), Some(0x0807_0605_0403_0201));
    assert_eq!(u64::read_from(&bytes[2..]), None);
}
