#!/bin/busybox sh
# The guest's first program, from the initramfs: makes the host's root, read-only below a layer in memory, the guest's own.
# GUEST_INIT and GUEST_PLAN come from the kernel's command line. Whatever fails here ends the guest, and its console says why.
set -e
b=/bin/busybox
$b mkdir -p /proc /lower /layer /whole
$b mount -t proc proc /proc
while read -r module; do $b insmod "/modules/$module"; done </modules/order
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro root /lower
$b mount -t tmpfs -o mode=755,size=75% layer /layer
$b mkdir /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work whole /whole
$b umount /proc
exec $b switch_root /whole "$GUEST_INIT" "$GUEST_PLAN"
