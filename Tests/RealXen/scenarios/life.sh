# SPDX-License-Identifier: MIT
# The life of a disk that 'pvdisk backend' serves to Linux's blkfront: flush, resize, detach, attach, death at either end, save.
. ./lib.sh
served() { tail -30 /out/backend.log | grep -q "$1"; }

# --- a flush of the guest reaches the block device under the image; resize; a busy disk is not taken away
new_image
losetup /dev/loop0 $IMAGE
backend
guest calm 1 "" <<'G'
d=/dev/xvda
i=0; while [ $i -lt 300 ] && ! [ -b $d ]; do sleep 0.1; i=$((i+1)); done
echo "READY to flush"
while ! xs=$(cat /sys/block/xvda/size) || [ "$xs" != 163840 ]; do
  dd if=/dev/urandom of=$d bs=4k count=1 conv=notrunc,fsync 2>/dev/null; echo "FLUSHED once"; sleep 0.3
done
echo "SIZE $(cat /sys/block/xvda/size)"
dd if=/dev/urandom of=/tmp/p bs=1M count=4 2>/dev/null
dd if=/tmp/p of=$d bs=1M seek=76 oflag=direct conv=notrunc 2>/dev/null
echo "GROWN $(dd if=$d bs=1M skip=76 count=4 iflag=direct 2>/dev/null | cmp - /tmp/p && echo same)"
exec 3<$d
echo "OPEN and held"
i=0; while [ $i -lt 300 ] && dd if=$d of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null; do sleep 0.1; i=$((i+1)); done
[ $i -lt 300 ] && echo "CUT yes"; exec 3<&-
i=0; while [ $i -lt 300 ] && [ -b $d ]; do sleep 0.1; i=$((i+1)); done
[ -b $d ] || echo "LEFT yes"
G
flushes() { awk '{print $16}' /sys/block/loop0/stat; }
attach $D /dev/loop0
xl unpause calm
mark "READY to"; before=$(flushes); mark "FLUSHED once"; sleep 1
check "flush: the image's block device is flushed" [ "$(flushes)" -gt "$before" ]
truncate -s 80M $IMAGE; losetup -c /dev/loop0
check "resize: the guest sees 163840 sectors" mark "SIZE 163840" 60
check "resize: the new part holds data" mark "GROWN same" 60
mark "OPEN and"
# blkfront of Linux 6.1 does not wait for those who have the disk open: their I/O fails from now on.
check "busy: detach while the guest has the disk open" pvdisk backend detach $D xvda
check "busy: I/O of the guest fails then" mark "CUT yes" 60
check "busy: the disk is gone when it is closed" mark "LEFT yes" 60
gone; stop_backend calm
losetup -d /dev/loop0

# --- detach while idle, attach again, backend killed in mid-I/O
new_image
backend
guest life 1 "" <<'G'
d=/dev/xvda
ready() { i=0; while [ $i -lt 600 ] && ! [ -b $d ]; do sleep 0.1; i=$((i+1)); done; }
ready; echo "FIRST yes"
i=0; while [ $i -lt 600 ] && [ -b $d ]; do sleep 0.1; i=$((i+1)); done
[ -b $d ] || echo "DETACHED yes"
ready; echo "AGAIN yes"
dd if=/dev/urandom of=/tmp/p bs=1M count=8 2>/dev/null
echo "BUSY yes"
n=0; while [ $n -lt 5 ]; do dd if=/tmp/p of=$d bs=64k seek=$((n*128)) oflag=direct conv=notrunc 2>/dev/null || echo "ERROR $n"; n=$((n+1)); done
sync; echo "SURVIVED $(dd if=$d bs=1M count=8 skip=32 iflag=direct 2>/dev/null | cmp - /tmp/p && echo same)"
echo "LIFESUM $(dd if=$d bs=1M iflag=direct 2>/dev/null | sha256sum | cut -d" " -f1)"
dmesg | grep -i "blkfront: xvd\|I/O error" | sed "s/^/DMESG /"
while :; do dd if=/tmp/p of=$d bs=64k oflag=direct conv=notrunc 2>/dev/null; done
G
attach $D $IMAGE
xl unpause life
mark "FIRST yes"; sleep 1
check "life: detach while idle" pvdisk backend detach $D xvda
check "life: the guest saw it go" mark "DETACHED yes"
check "life: attach again" attach $D $IMAGE
check "life: the guest saw it come" mark "AGAIN yes"
mark "BUSY yes"; sleep 0.3
kill -9 $B; wait $B 2>/dev/null; rm -f /run/pvdisk.pid
echo "killed" >> /out/backend.log
backend
check "life: the guest's writes survive kill -9 of the backend" mark "SURVIVED same"
mark "LIFESUM"
check "life: no I/O error in the guest" sh -c "! grep -qa '^ERROR\|I/O error' $LOG"
check "life: checksum after it" is "$(of LIFESUM)" "$(image_sum $IMAGE)"
sleep 1; cp $LOG /out/life-guest.log
xl destroy life
check "life: a guest destroyed in mid-I/O is let go" until_true 20 served "the guest is gone"
stop_backend life

# --- killed while requests are answered out of turn: reads of one half of the disk and a flush hang, writes to the other half
# are answered and go round the ring many times
new_image
dd if=/dev/urandom of=$IMAGE bs=1M count=32 seek=32 conv=notrunc 2>/dev/null
losetup /dev/loop1 $IMAGE
dmsetup --noudevsync create slow --table "0 65536 linear /dev/loop1 65536"
dmsetup --noudevsync create mixed --table "0 65536 linear /dev/loop1 0
65536 65536 linear /dev/dm-0 0"
backend
guest turn 1 "" <<'G'
d=/dev/xvda
i=0; while [ $i -lt 300 ] && ! [ -b $d ]; do sleep 0.1; i=$((i+1)); done
dd if=/dev/urandom of=/tmp/p bs=1M count=8 2>/dev/null
echo "READY yes"
i=0; while [ $i -lt 300 ] && ! dd if=$d bs=4k count=1 skip=8000 iflag=direct 2>/dev/null | grep -q GO; do sleep 0.1; i=$((i+1)); done
for w in 0 1 2 3 4 5; do
  (dd if=$d of=/tmp/s$w bs=64k count=16 skip=$((512+w*16)) iflag=direct 2>/dev/null; echo "READER $w $?") &
done
(dd if=/tmp/p of=$d bs=4k count=1 seek=7000 conv=notrunc,fsync 2>/dev/null; echo "FLUSHER $?") &
sleep 1
n=0; while [ $n -lt 20 ]; do dd if=/tmp/p of=$d bs=16k count=40 seek=$((n*40)) oflag=direct conv=notrunc 2>/dev/null || echo "ERROR fast"; n=$((n+1)); done
echo "ROUND yes"
wait
echo "SLOW $(cat /tmp/s0 /tmp/s1 /tmp/s2 /tmp/s3 /tmp/s4 /tmp/s5 | sha256sum | cut -d" " -f1)"
echo "TURNSUM $(dd if=$d bs=1M iflag=direct 2>/dev/null | sha256sum | cut -d" " -f1)"
G
attach $D /dev/dm-1
xl unpause turn
mark "READY yes"
dmsetup suspend --nolockfs --noflush slow
printf GO | dd of=/dev/dm-1 bs=4k seek=8000 conv=notrunc,sync 2>/dev/null
check "turn: what is answered went round the ring" mark "ROUND yes" 60
check "turn: what hangs has not been answered" sh -c "! grep -qa '^READER\|^FLUSHER' $LOG"
kill -9 $B
dmsetup resume slow
wait $B 2>/dev/null; rm -f /run/pvdisk.pid
echo "killed" >> /out/backend.log
ls -l /run/pvdisk > /out/turn-notes.txt
backend
check "turn: after kill -9 what hung is answered" mark "TURNSUM" 60
check "turn: its data" is "$(of SLOW)" "$(dd if=$IMAGE bs=1M skip=32 count=6 2>/dev/null | sha256sum | cut -d' ' -f1)"
check "turn: no error in the guest" sh -c "! grep -qa '^ERROR\|READER . [1-9]\|FLUSHER [1-9]' $LOG"
sync
check "turn: checksum after it" is "$(of TURNSUM)" "$(image_sum $IMAGE)"
gone 100; until_true 20 served "the guest is gone"
check "turn: the next process took requests over" served "taken over from a former process [1-9]"
stop_backend turn
dmsetup --noudevsync remove mixed; dmsetup --noudevsync remove slow; losetup -d /dev/loop1

# --- save and restore under I/O; the disk of the restored guest is made before it runs
new_image
backend
MEMORY=192 guest keep 1 "" <<'G'
d=/dev/xvda
i=0; while [ $i -lt 300 ] && ! [ -b $d ]; do sleep 0.1; i=$((i+1)); done
dd if=/dev/urandom of=/tmp/p bs=1M count=2 2>/dev/null
(while ! [ -e /tmp/stop ]; do dd if=/tmp/p of=$d bs=64k count=32 oflag=direct conv=notrunc 2>/dev/null || echo "ERROR write"; dd if=$d of=/tmp/r bs=64k count=32 iflag=direct 2>/dev/null || echo "ERROR read"; cmp /tmp/p /tmp/r || echo "ERROR different"; done; echo "LOOP ended") &
sleep 3; echo "SAVE now"
i=0; while [ $i -lt 8 ]; do sleep 1; i=$((i+1)); echo "TICK $i"; done
touch /tmp/stop; wait
echo "KEEPSUM $(dd if=$d bs=1M iflag=direct 2>/dev/null | sha256sum | cut -d" " -f1)"
G
attach $D $IMAGE
xl unpause keep
mark "SAVE now"
check "save: xl save" xl save keep /tmp/keep.save
check "save: the backend let go of the guest that is no more" until_true 20 served "the guest is gone"
cp $LOG /out/keep-guest-1.log
check "save: xl restore" xl restore -p /tmp/keep.save
rm -f /tmp/keep.save; N=keep; D=$(xl domid keep)
check "save: attach" attach $D $IMAGE
xl unpause keep
check "save: the guest goes on" mark "KEEPSUM" 120
check "save: no error in the guest" sh -c "! grep -qa '^ERROR' $LOG"
check "save: checksum after it" is "$(of KEEPSUM)" "$(image_sum $IMAGE)"
gone 100; until_true 20 served "the guest is gone"
stop_backend save

# --- bad input: nonsense of a toolstack, more than a guest may have; the others do not notice
new_image
backend --guest-disks 2
guest bad 1 "" <<'G'
d=/dev/xvda
i=0; while [ $i -lt 300 ] && ! [ -b $d ]; do sleep 0.1; i=$((i+1)); done
i=0; while [ $i -lt 300 ] && ! [ -b /dev/xvdb ]; do sleep 0.1; i=$((i+1)); done
echo "GOOD $(dd if=/dev/zero of=$d bs=1M count=4 oflag=direct conv=notrunc 2>/dev/null && echo yes)"
G
attach $D $IMAGE
nonsense() { # nonsense DEVICE NODE=VALUE...: a folder that no toolstack would make
    local p=/local/domain/0/backend/pvdisk/$D/$1 d=$1 node; shift
    xenstore-write $p/frontend-id $D $p/frontend /local/domain/$D/device/vbd/$d $p/state 1 $p/params /tmp/d/none.img $p/mode w
    for node in "$@"; do xenstore-write $p/${node%%=*} "${node#*=}"; done
    until_true 10 sh -c "[ \"\$(xenstore-read $p/state)\" = 6 ]"
}
error_of() { xenstore-read /local/domain/0/error/backend/pvdisk/$D/$1/error; }
check "bad: an image that is not there is refused" nonsense 51744
check "bad: an error node says so" sh -c "xenstore-read /local/domain/0/error/backend/pvdisk/$D/51744/error | grep -q 'does not exist'"
check "bad: another domain's frontend is refused" nonsense 51760 frontend=/local/domain/0/device/vbd/51760
check "bad: a number that is no domain is refused" nonsense 51776 frontend-id=banana
xenstore-rm /local/domain/0/backend/pvdisk/$D/51744; xenstore-rm /local/domain/0/backend/pvdisk/$D/51760; xenstore-rm /local/domain/0/backend/pvdisk/$D/51776
truncate -s 8M /tmp/d/v.img /tmp/d/w.img
check "bad: a second disk" attach $D /tmp/d/v.img --vdev xvdb
check "bad: a third disk is refused with a sentence" sh -c "! pvdisk backend attach $D /tmp/d/w.img --vdev xvdc 2> /tmp/refused.txt && grep -q 'may have no more' /tmp/refused.txt"
xl unpause bad
check "bad: the first disk works" mark "GOOD yes" 120
gone 100; until_true 20 served "the guest is gone"
stop_backend bad
end_of life
