#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Boots a kernel with QEMU on the KVM that is loaded, ironvm's or the kernel's.
# usage: qemu.sh KERNEL INITRD [QEMU ARGUMENTS]
set -eu
kernel=$1 initrd=$2
shift 2
exec qemu-system-x86_64 -accel kvm -cpu host -smp 2 -m 1G -nographic -no-reboot \
    -kernel "$kernel" -initrd "$initrd" -append 'console=ttyS0 panic=-1' "$@"
