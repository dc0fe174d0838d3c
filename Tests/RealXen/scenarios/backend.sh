# SPDX-License-Identifier: MIT
# Linux's blkfront on 'pvdisk backend': data verified from both sides, variants, life.
. ./lib.sh
IMAGE=/tmp/d/u.img
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
/sbin/blkdiscard -o 50331648 -l 8388608 $d; echo "DISCARD $?"
t=$(date +%s); dd if=$d of=/dev/null bs=4k count=1000 iflag=direct 2>&1 | tail -1 | sed "s/^/SMALL /"
dd if=$d of=/dev/null bs=1M count=32 iflag=direct 2>&1 | tail -1 | sed "s/^/LARGE /"
sync; echo "SUM $(dd if=$d bs=1M iflag=direct 2>/dev/null | sha256sum | cut -d" " -f1)"
dmesg | grep -i "blkfront" | sed "s/^/DMESG /"
'
verified() { # verified NAME VCPUS KERNEL-PARAMETERS BACKEND-OPTIONS: one guest, all of IO
    rm -f $IMAGE; truncate -s 64M $IMAGE
    backend $4
    guest $1 "$2" "$3" <<< "$IO" || { stop_backend; return; }
    pvdisk backend attach $D $IMAGE 2>> /out/backend.log || result "$1: FAILED, attach"
    xl unpause $1
    mark DOMU-DONE
    check "$1: 131072 sectors" [ "$(of SIZE)" = 131072 ]
    check "$1: data read back" [ "$(of BACK)" = same ]
    check "$1: a file on ext4" [ "$(of FILE)" = same ]
    check "$1: fsck" [ "$(of FSCK)" = 0 ]
    check "$1: discard" [ "$(of DISCARD)" = 0 ]
    check "$1: checksum in the guest and of the image" [ "$(of SUM)" = "$(image_sum $IMAGE)" ]
    check "$1: discarded sectors are holes" [ $(du -k $IMAGE | cut -f1) -lt 50000 ]
    result "$1: 1000 x 4 KiB: $(of SMALL); 32 MiB: $(of LARGE)"
    gone
    stop_backend
    check "$1: nothing is left" grep -q "0 pages and 0 ports left" <(tail -2 /out/backend.log)
    xenstore-rm /local/domain/0/backend/pvdisk 2>/dev/null
    cp $LOG /out/$1-guest.log
    say "S-$1"
}
verified defaults 1 "" ""
verified queues2-order2-seg64 2 "xen_blkfront.max_indirect_segments=64 xen_blkfront.max_ring_page_order=2 xen_blkfront.max_queues=2" "--queues 2"
verified seg256 1 "xen_blkfront.max_indirect_segments=256" ""
verified guest-not-persistent 1 "xen_blkfront.feature_persistent=0" ""
verified backend-not-persistent 1 "" "--no-persistent"
verified direct-only 1 "" "--indirect-segments 0 --ring-pages 1"

# life: detach while idle, attach again, backend killed in mid-I/O, guest destroyed in mid-I/O
rm -f $IMAGE; truncate -s 64M $IMAGE
backend
LIFE='
d=/dev/xvda
ready() { i=0; while [ $i -lt 300 ] && ! [ -b $d ]; do sleep 0.1; i=$((i+1)); done; }
ready; echo "FIRST yes"
i=0; while [ $i -lt 300 ] && [ -b $d ]; do sleep 0.1; i=$((i+1)); done
[ -b $d ] || echo "DETACHED yes"
ready; echo "AGAIN yes"
dd if=/dev/urandom of=/tmp/p bs=1M count=8 2>/dev/null
echo "BUSY yes"
n=0; while [ $n -lt 5 ]; do dd if=/tmp/p of=$d bs=64k seek=$((n*128)) oflag=direct conv=notrunc 2>/dev/null || echo "ERROR $n"; n=$((n+1)); done
sync; echo "SURVIVED $(dd if=$d bs=1M count=8 skip=32 iflag=direct 2>/dev/null | cmp - /tmp/p && echo same)"
echo "LIFESUM $(dd if=$d bs=1M iflag=direct 2>/dev/null | sha256sum | cut -d" " -f1)"
dmesg | grep -i "blkfront\|I/O error" | sed "s/^/DMESG /"
while :; do dd if=/tmp/p of=$d bs=64k oflag=direct conv=notrunc 2>/dev/null; done
'
guest life 1 "" <<< "$LIFE"
pvdisk backend attach $D $IMAGE 2>> /out/backend.log
xl unpause life
mark "FIRST yes"; sleep 1
check "life: detach while idle" pvdisk backend detach $D xvda
check "life: the guest saw it go" mark "DETACHED yes"
check "life: attach again" pvdisk backend attach $D $IMAGE
check "life: the guest saw it come" mark "AGAIN yes"
mark "BUSY yes"; sleep 0.7
kill -9 $B; wait $B 2>/dev/null; rm -f /run/pvdisk.pid
echo "killed" >> /out/backend.log
backend
check "life: the guest's writes survive kill -9 of the backend" mark "SURVIVED same"
mark "LIFESUM"
check "life: checksum after it" [ "$(of LIFESUM)" = "$(image_sum $IMAGE)" ]
sleep 2
cp $LOG /out/life-guest.log
xl destroy life
i=0; while [ $i -lt 50 ] && ! tail -1 /out/backend.log | grep -q "gone\|removed\|detached"; do sleep 0.2; i=$((i+1)); done
stop_backend
check "life: nothing is left after a guest was destroyed in mid-I/O" grep -q "0 pages and 0 ports left" <(tail -2 /out/backend.log)
xenstore-ls -fp / > /out/tree-after.txt
result "end"
