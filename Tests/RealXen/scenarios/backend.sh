# SPDX-License-Identifier: MIT
# Linux's blkfront on 'pvdisk backend': data verified from both sides, in every form of the ring that the two can agree on.
. ./lib.sh
# What every guest does with its disk; its lines go to the console.
IO='
d=/dev/xvda
i=0; while [ $i -lt 100 ] && ! [ -b $d ]; do sleep 0.1; i=$((i+1)); done
echo "SIZE $(cat /sys/block/xvda/size)"
dd if=/dev/urandom of=/tmp/p bs=1M count=8 2>/dev/null
n=0
for o in 37 3 61 22 55 8 49 14 29 44 1 33 19 58 26 11; do
  dd if=/tmp/p of=$d bs=64k skip=$n seek=$((o*4+256)) count=1 oflag=direct conv=notrunc 2>/dev/null; n=$((n+1))
done
dd if=/tmp/p of=$d bs=1M seek=40 oflag=direct conv=notrunc 2>/dev/null
dd if=/tmp/p of=$d bs=4k count=200 oflag=direct conv=notrunc 2>/dev/null
echo "BACK $(dd if=$d bs=1M skip=40 count=8 iflag=direct 2>/dev/null | cmp - /tmp/p && echo same)"
/sbin/mke2fs -q -t ext4 -F $d 32m 2>&1 && mkdir -p /m && mount -t ext4 $d /m && cp /tmp/p /m/p && sync && cmp /tmp/p /m/p && echo "FILE same"
umount /m; /sbin/e2fsck -fn $d > /tmp/fsck 2>&1; echo "FSCK $?"; tail -2 /tmp/fsck
/sbin/blkdiscard -f -o 41943040 -l 8388608 $d; echo "DISCARD $?"
echo "ZEROS $(dd if=$d bs=1M skip=40 count=8 iflag=direct 2>/dev/null | cmp -n 8388608 - /dev/zero && echo yes)"
sync; echo "SUM $(dd if=$d bs=1M iflag=direct 2>/dev/null | sha256sum | cut -d" " -f1)"
dmesg | grep -i "blkfront: xvd" | sed "s/^/DMESG /"
'
blocks() { du -k $IMAGE | cut -f1; }
# What was discarded is a hole if the image grows when it is written again.
was_hole() {
    local before=$(blocks)
    dd if=/dev/urandom of=$IMAGE bs=1M seek=40 count=8 conv=notrunc 2>/dev/null
    [ $(($(blocks) - before)) -ge 8000 ] || { echo "-- $before KiB before, $(blocks) KiB after"; return 1; }
}
verified() { # verified NAME VCPUS KERNEL-PARAMETERS BACKEND-OPTIONS: one guest, all of IO
    new_image
    backend $4
    guest $1 "$2" "$3" <<< "$IO" || { kill $B; return; }
    attach $D $IMAGE || result "$1: FAILED, attach"
    xl unpause $1
    mark DOMU-DONE
    check "$1: 131072 sectors" is "$(of SIZE)" 131072
    check "$1: data read back" is "$(of BACK)" same
    check "$1: a file on ext4" is "$(of FILE)" same
    check "$1: fsck" is "$(of FSCK)" 0
    check "$1: discard" is "$(of DISCARD) $(of ZEROS)" "0 yes"
    check "$1: checksum in the guest and of the image" is "$(of SUM)" "$(image_sum $IMAGE)"
    check "$1: discarded sectors are holes" was_hole
    grep "connected, queues" /out/backend.log | tail -1 | sed "s,.*: connected,$1: connected," >> /out/results.txt
    gone
    until_true 20 sh -c '! xenstore-exists /local/domain/0/backend/pvdisk'
    check "$1: the backend's folder goes with the guest" sh -c '! xenstore-exists /local/domain/0/backend/pvdisk'
    stop_backend $1
}
verified defaults 1 "" ""
verified queues2-order2-seg64 2 "xen_blkfront.max_indirect_segments=64 xen_blkfront.max_ring_page_order=2 xen_blkfront.max_queues=2" "--queues 2"
verified seg256 1 "xen_blkfront.max_indirect_segments=256" ""
verified guest-not-persistent 1 "xen_blkfront.feature_persistent=0" ""
verified backend-not-persistent 1 "" "--no-persistent"
verified direct-only 1 "" "--indirect-segments 0 --ring-pages 1"
end_of backend
