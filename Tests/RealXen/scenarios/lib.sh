# SPDX-License-Identifier: MIT
# What the scenarios have in common; they run in dom0, under bash.
IMAGE=/tmp/d/u.img
now() { cut -d' ' -f1 /proc/uptime; }
say() { echo "XEN-$* uptime $(now)"; }
result() { echo "$*" >> /out/results.txt; echo "RESULT $*"; }
check() { # check NAME CONDITION...: one line of the results
    local name=$1; shift
    if "$@"; then result "$name: ok"; return; fi
    result "$name: FAILED"
    echo "-- the guest's last words:"; tail -12 "$LOG" 2>/dev/null | tr -d '\r' | cut -c1-150
    echo "-- the backend's:"; tail -6 /out/backend.log 2>/dev/null
}
is() { [ "$1" = "$2" ] || { echo "-- '$1' is not '$2'"; return 1; }; }
guest() { # guest NAME VCPUS KERNEL-PARAMETERS [DISK] < script: created, and paused
    N=$1; LOG=/var/log/xen/console/guest-$N.log
    cat > /tmp/scn.sh
    (cd /tmp && echo scn.sh | cpio -o -H newc 2>/dev/null) > /tmp/add.cpio
    cat /guest/${RAMDISK:-domu}.cpio /tmp/add.cpio > /tmp/domu-$N.cpio
    cat > /tmp/$N.cfg <<X
name="$N"
type="pv"
kernel="/guest/vmlinux"
ramdisk="/tmp/domu-$N.cpio"
extra="console=hvc0 mitigations=off nopti quiet $3"
memory=${MEMORY:-384}
vcpus=$2
disk=[${4:-}]
on_poweroff="destroy"
on_reboot="destroy"
on_crash="destroy"
X
    rm -f $LOG
    xl create -p /tmp/$N.cfg > /tmp/xl.txt 2>&1 || { result "$N: FAILED, xl create: $(tail -1 /tmp/xl.txt)"; return 1; }
    D=$(xl domid $N)
    echo "$N $D" >> /out/domains.txt
}
attach() { pvdisk backend attach "$@" 2>> /out/backend.log; }
backend() { # backend OPTIONS...
    pvdisk backend serve --pid-file /run/pvdisk.pid "$@" 2>> /out/backend.log & B=$!
    local i=0
    while ! [ -e /run/pvdisk.pid ] && [ $i -lt 300 ]; do sleep 0.1; i=$((i + 1)); done
}
stop_backend() {
    kill $B; wait $B; echo "backend ended: $?" >> /out/backend.log; rm -f /run/pvdisk.pid
    check "$1: no page and no port is left" tail_says "0 pages and 0 ports left"
}
tail_says() { tail -4 /out/backend.log | grep -q "$1"; }
mark() { # mark TEXT [SECONDS]: waits for a text on the guest's console
    local i=0
    while ! grep -qa "$1" $LOG 2>/dev/null; do
        sleep 0.2; i=$((i + 1)); [ $i -gt $((${2:-240} * 5)) ] && { echo "no '$1' from $N"; return 1; }
    done
    return 0
}
until_true() { # until_true SECONDS CONDITION...
    local i=0 most=$(($1 * 5)); shift
    until "$@" > /dev/null 2>&1; do sleep 0.2; i=$((i + 1)); [ $i -gt $most ] && return 1; done
    return 0
}
gone() { # waits for the guest's end
    local i=0
    while xl domid $N > /dev/null 2>&1; do
        sleep 0.3; i=$((i + 1)); [ $i -gt ${1:-400} ] && { echo "$N does not end"; xl destroy $N; return 1; }
    done
    cp $LOG /out/$N-guest.log
}
of() { grep -a "^$1 " $LOG | tail -1 | tr -d '\r' | cut -d' ' -f2-; } # what the guest said of something
image_sum() { sha256sum "$1" | cut -d' ' -f1; }
new_image() { rm -f $IMAGE; truncate -s ${1:-64M} $IMAGE; }
end_of() { xenstore-ls -fp / > /out/tree-after-$1.txt; result "end of $1"; }
