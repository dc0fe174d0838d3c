# SPDX-License-Identifier: MIT
# 'pvdisk frontend' in a guest without blkfront: on Linux's xen-blkback, on QEMU's qdisk, and on 'pvdisk backend'.
. ./lib.sh
RAMDISK=front; MEMORY=640
IO='
mkdir -p /x /m
pvdisk frontend xvda /x --daemonize -P /tmp/pid OPTIONS 2> /tmp/said; echo "STARTED $?"; cat /tmp/said
f=/x/xvda
echo "BYTES $(stat -c %s $f)"
dd if=/dev/urandom of=/tmp/p bs=1M count=8 2>/dev/null
n=0
for o in 37 3 61 22 55 8 49 14 29 44 1 33 19 58 26 11; do
  /bin/dd if=/tmp/p of=$f bs=64k skip=$n seek=$((o*4+256)) count=1 oflag=direct conv=notrunc 2>/dev/null; n=$((n+1))
done
/bin/dd if=/tmp/p of=$f bs=1M seek=40 oflag=direct conv=notrunc 2>/dev/null
/bin/dd if=/tmp/p of=$f bs=4k count=200 oflag=direct conv=notrunc 2>/dev/null
(/bin/dd if=/tmp/p of=$f bs=16k count=100 seek=3400 oflag=direct conv=notrunc 2>/dev/null) & (/bin/dd if=/tmp/p of=$f bs=16k count=100 seek=3600 oflag=direct conv=notrunc 2>/dev/null) & wait
echo "BACK $(dd if=$f bs=1M skip=40 count=8 2>/dev/null | cmp - /tmp/p && echo same)"
echo "ODD $(dd if=$f bs=777 skip=53960 count=100 2>/dev/null | wc -c)"
/sbin/mke2fs -q -t ext4 -F $f 32m 2>&1; mount -o loop -t ext4 $f /m && cp /tmp/p /m/p && sync && cmp /tmp/p /m/p && echo "FILE same"
umount /m; /sbin/e2fsck -fn $f > /tmp/fsck 2>&1; echo "FSCK $?"; tail -1 /tmp/fsck
echo "SUM $(dd if=$f bs=1M 2>/dev/null | sha256sum | cut -d" " -f1)"
echo "SMALL $(/bin/dd if=$f of=/dev/null bs=4k count=1000 iflag=direct 2>&1 | tail -1)"
echo "LARGE $(/bin/dd if=$f of=/dev/null bs=1M count=32 iflag=direct 2>&1 | tail -1)"
kill $(cat /tmp/pid); i=0; while [ $i -lt 100 ] && [ -e /tmp/pid ]; do sleep 0.1; i=$((i+1)); done
sleep 0.5; echo "ENDED $(cat /tmp/said | tail -1)"
grep -c fuse.pvdisk /proc/mounts | sed "s/^/MOUNTS /"
'
verified() { # verified NAME OPTIONS: all of IO on the image
    mark DOMU-DONE
    cp $LOG /out/$1-guest.log
    check "$1: started" is "$(of STARTED)" 0
    check "$1: 64 MiB" is "$(of BYTES)" 67108864
    check "$1: data read back" is "$(of BACK) $(of ODD)" "same 77700"
    check "$1: a file on ext4" is "$(of FILE)" same
    check "$1: fsck" is "$(of FSCK)" 0
    check "$1: it ended and unmounted" is "$(of MOUNTS)" 0
    check "$1: checksum in the guest and of the image" is "$(of SUM)" "$(image_sum $IMAGE)"
    result "$1: 1000 x 4 KiB read: $(of SMALL); 32 MiB read: $(of LARGE)"
}
io() { echo "${IO/OPTIONS/$1}"; }

new_image; losetup /dev/loop0 $IMAGE
guest front-blkback 1 "" '"phy:/dev/loop0,xvda,w"' < <(io "")
xl unpause front-blkback; verified front-blkback; gone; sync
losetup -d /dev/loop0

new_image; backend
guest front-ours 1 "" < <(io "")
attach $D $IMAGE; xl unpause front-ours; verified front-ours; gone
until_true 20 sh -c '! xenstore-exists /local/domain/0/backend/pvdisk'
guest front-queues 2 "" < <(io "--queues 2 --ring-pages 4 --indirect-segments 256 --transfer 1024 --depth 4")
attach $D $IMAGE; xl unpause front-queues; verified front-queues; gone
until_true 20 sh -c '! xenstore-exists /local/domain/0/backend/pvdisk'

# A backend that takes the disk away, and a disk that is not there.
guest front-bad 1 "" <<'G'
mkdir -p /x
pvdisk frontend xvdz /x 2>&1; echo "NODISK $?"
pvdisk frontend xvda /x --daemonize -P /tmp/pid; echo "STARTED $?"
dd if=/x/xvda of=/dev/null bs=4k count=1 2>/dev/null && echo "READ yes"
echo "TAKE it"
i=0; while [ $i -lt 300 ] && [ -e /tmp/pid ]; do sleep 0.1; i=$((i+1)); done
[ -e /tmp/pid ] || echo "LEFT yes"
rmmod xen_gntalloc; pvdisk frontend xvda /x 2>&1; echo "NODEVICE $?"
G
attach $D $IMAGE; xl unpause front-bad
check "front-bad: a disk that is not there is a sentence" mark "NODISK 2" 60
mark "TAKE it" 60
check "front-bad: detach" pvdisk backend detach $D xvda
check "front-bad: the frontend ends when the disk is taken away" mark "LEFT yes" 60
check "front-bad: a device that is not there is a sentence" mark "NODEVICE 2" 60
gone 100; stop_backend front-ours

new_image
guest front-qdisk 1 "" '"format=raw,vdev=xvda,access=rw,backendtype=qdisk,target=/tmp/d/u.img"' < <(io "")
xl unpause front-qdisk; verified front-qdisk; gone; sync
cp /var/log/xen/qemu-dm-front-qdisk.log /out/ 2>/dev/null

# What Xen itself says is left, after the last guest: grants (xl debug-keys g) and interdomain ports.
xl dmesg -c > /dev/null; xl debug-keys g; sleep 1; xl dmesg > /out/xen-grants.txt
check "xen: no guest is left" is "$(xl list | tail -n +3 | wc -l)" 0
check "xen: no grant of a guest is left" sh -c "! grep -E 'grant-table for remote d[1-9]' /out/xen-grants.txt"
/usr/lib/xen-4.17/bin/lsevtchn 0 > /out/xen-ports.txt
check "xen: no port to a guest is left" sh -c "! grep 'Interdomain' /out/xen-ports.txt | grep -v 'Remote Domain 0\|domain 0'"
end_of frontend
