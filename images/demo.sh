#!/usr/bin/env bash
# What `make run` shows: an image becomes a file through a whole PV stack, and real tools take it for a disk.
#   usage: images/demo.sh PVDISK
set -euo pipefail
pvdisk=$(realpath "$1")
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/pvdisk-demo-XXXXXX")
point=$work/point files=$work/files image=$work/disk.img
mkdir "$point" "$files"

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
is_root() { [ "$(id -u)" = 0 ]; }

cleanup() {
  status=$?
  mountpoint -q "$files" && { is_root && umount "$files" || fusermount3 -u "$files"; } || true
  mountpoint -q "$point" && "$pvdisk" umount "$point" || true
  rm -rf "$work"
  [ $status = 0 ] || echo "the demonstration failed (exit status $status)" >&2
  exit $status
}
trap cleanup EXIT

mount_filesystem() {
  if is_root; then mount -o loop "$point/xvda" "$files"; else fuse2fs -o fakeroot,rw "$point/xvda" "$files"; fi
}
unmount_filesystem() {
  if is_root; then umount "$files"; else
    fusermount3 -u "$files"
    while pgrep -u "$(id -u)" -f "fuse2fs .*$point/xvda" >/dev/null; do sleep 0.1; done
  fi
}

step "1. A disk image that somebody gave us: images/ext4.img, mounted read-only through the stack"
cp "$here/images/ext4.img" "$work/given.img"
"$pvdisk" run --read-only "$work/given.img" -- sh -c 'e2fsck -fn "$PVDISK" | tail -n 1'

step "2. A new disk of 512 MiB, and the handshake of its two ends in the XenStore as it happens"
"$pvdisk" create "$image" 512M
"$pvdisk" mount --daemonize --verbose "$image" "$point"
ls -l "$point"

step "3. mkfs.ext4 on it, and a source tree unpacked into it ($(is_root && echo 'through a loop device' || echo 'through fuse2fs'))"
mkfs.ext4 -q -F "$point/xvda"
mount_filesystem
if git -C "$here" rev-parse -q --verify HEAD >/dev/null 2>&1; then
  git -C "$here" archive HEAD | tar -x -C "$files"
else
  tar -C "$here" --exclude=.build --exclude='.build-*' -c . | tar -x -C "$files"
fi
[ -d /usr/include ] && cp -r /usr/include "$files/usr-include"
(cd "$files" && find . -type f -not -path './lost+found/*' -print0 | sort -z | xargs -0 sha256sum) >"$work/sums"
echo "$(wc -l <"$work/sums") files, $(du -sh --apparent-size "$files" | cut -f1)"
unmount_filesystem

step "4. e2fsck, then the same files again, checksum by checksum"
e2fsck -fn "$point/xvda" | tail -n 1
mount_filesystem
(cd "$files" && sha256sum --quiet -c "$work/sums") && echo "every checksum is right"
unmount_filesystem

step "5. How fast, and what it took"
printf 'a sequential read of the whole disk: '
dd if="$point/xvda" of=/dev/null bs=1M iflag=direct 2>&1 | tail -n 1
"$pvdisk" status "$point"
"$pvdisk" umount "$point"
echo "unmounted, flushed, unlocked; the image takes $(du -h "$image" | cut -f1) of its $(du -h --apparent-size "$image" | cut -f1)"
