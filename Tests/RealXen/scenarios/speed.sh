# SPDX-License-Identifier: MIT
# One guest with blkfront and three disks in one boot: Linux's xen-blkback, 'pvdisk backend', QEMU's qdisk. Direct I/O, one
# request at a time, in turn; figures, no checks.
. ./lib.sh
ROUNDS=5
new_image; losetup /dev/loop0 $IMAGE; truncate -s 64M /tmp/d/ours.img /tmp/d/q.img
for f in $IMAGE /tmp/d/ours.img /tmp/d/q.img; do dd if=/dev/urandom of=$f bs=1M count=64 conv=notrunc 2>/dev/null; done
backend
guest speed 1 "" '"phy:/dev/loop0,xvda,w","format=raw,vdev=xvdc,access=rw,backendtype=qdisk,target=/tmp/d/q.img"' <<G
i=0; while [ \$i -lt 300 ] && ! { [ -b /dev/xvda ] && [ -b /dev/xvdb ] && [ -b /dev/xvdc ]; }; do sleep 0.1; i=\$((i+1)); done
t() { echo "TIME \$1 \$2 \$(shift 2; /bin/dd "\$@" 2>&1 | sed -n 's/.*copied, \([0-9.]*\) s.*/\1/p')"; }
r=0; while [ \$r -lt $ROUNDS ]; do
  for d in xvda xvdb xvdc; do
    t \$d read-4k if=/dev/\$d of=/dev/null bs=4k count=1000 iflag=direct
    t \$d write-4k if=/dev/zero of=/dev/\$d bs=4k count=1000 oflag=direct conv=notrunc
    t \$d read-32m if=/dev/\$d of=/dev/null bs=1M count=32 iflag=direct
    t \$d write-32m if=/dev/zero of=/dev/\$d bs=1M count=32 oflag=direct conv=notrunc
  done
  r=\$((r+1))
done
G
attach $D /tmp/d/ours.img --vdev xvdb
xl unpause speed
mark DOMU-DONE 400; cp $LOG /out/speed-guest.log
tr -d '\r' < $LOG | grep -a '^TIME ' > /out/speed.txt
check "speed: all rounds ran" is "$(wc -l < /out/speed.txt)" $((ROUNDS * 12))
for op in read-4k write-4k read-32m write-32m; do
    median() { grep "^TIME $1 $op " /out/speed.txt | cut -d' ' -f4 | sort -n | sed -n "$(((ROUNDS + 1) / 2))p"; }
    result "speed: $op: $(awk -v a=$(median xvda) -v b=$(median xvdb) -v c=$(median xvdc) 'BEGIN {
        printf "blkback %s s, pvdisk %s s (%.2f of blkback), qdisk %s s (%.2f of blkback)", a, b, b/a, c, c/a}')"
done
gone 100; until_true 20 sh -c '! xenstore-exists /local/domain/0/backend/pvdisk'
stop_backend speed
losetup -d /dev/loop0
end_of speed
