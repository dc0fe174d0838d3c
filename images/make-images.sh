#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Makes the images again, byte for byte: make-images.sh [DIRECTORY]; make-images.sh --check compares and changes nothing.
#
# Needs no root and mounts nothing: mke2fs and debugfs write the ext4s, mtools the FAT. Names, identifiers and times are
# fixed; the bytes are those of Debian 12's e2fsprogs 1.47.0, dosfstools 4.2, mtools 4.0.32 and util-linux 2.38.1.
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC PATH="$PATH:/usr/sbin:/sbin"
readonly moment=1700000000 # 2023-11-14 22:13:20 UTC
export SOURCE_DATE_EPOCH=$moment E2FSPROGS_FAKE_TIME=$moment MTOOLS_SKIP_CHECK=1
readonly here=$(cd "$(dirname "$0")" && pwd)

for tool in mke2fs debugfs e2fsck mkfs.fat mcopy mmd sfdisk xz sha256sum; do
  if ! command -v "$tool" > /dev/null; then
    echo "make-images: $tool is missing; .ci/setup test installs it" >&2
    exit 2
  fi
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The files that every file system here holds, below $work/files.
make_files() {
  local files=$work/files
  mkdir -p "$files/notes/deep/er"
  cat > "$files/README.txt" << 'TEXT'
This is a disk image for pvdisk. If you can read this, sectors have come through a
paravirtual block ring: written into granted pages by one domain, read by another.
TEXT
  printf 'Hello from sector land.\n' > "$files/notes/hello.txt"
  : > "$files/notes/empty"
  printf 'the bottom of it\n' > "$files/notes/deep/er/bottom.txt"
  # 100 KiB in which every 16 bytes say where they are: misplaced sectors show.
  seq -f '%014.0f.' 0 6399 | head -c 102400 > "$files/pattern.bin"
  find "$files" -exec touch -h -d "@$moment" {} +
  (cd "$files" && find . -type f | sort | xargs sha256sum) > "$work/files.sha256"
}

# make_ext4 IMAGE KIB UUID LABEL
make_ext4() {
  local image=$1 kib=$2 uuid=$3 label=$4
  rm -f "$image"
  truncate -s "${kib}K" "$image"
  mke2fs -q -F -t ext4 -b 1024 -N 32 -m 0 -L "$label" -U "$uuid" -O ^has_journal,^resize_inode,metadata_csum \
    -E "hash_seed=$uuid,root_owner=0:0,lazy_itable_init=0,nodiscard" "$image" "$kib"
  {
    (cd "$work/files" && find . -mindepth 1 -type d | sort) | sed 's|^\./|mkdir |'
    (cd "$work/files" && find . -type f | sort) | sed "s|^\./\(.*\)|write $work/files/\1 \1|"
    echo "symlink hello notes/hello.txt"
  } > "$work/commands"
  debugfs -w -f "$work/commands" "$image" > "$work/debugfs.log" 2>&1
  # debugfs 1.47 complains and goes on; e2fsck is who decides.
  e2fsck -f -n "$image" > "$work/e2fsck.log" 2>&1 || {
    cat "$work/debugfs.log" "$work/e2fsck.log" >&2
    exit 3
  }
}

# make_fat IMAGE KIB
make_fat() {
  local image=$1 kib=$2
  rm -f "$image"
  truncate -s "${kib}K" "$image"
  mkfs.fat --invariant -F 12 -n PVDISKFAT -i 50564449 "$image" > /dev/null
  mmd -i "$image" ::/notes ::/notes/deep ::/notes/deep/er
  (cd "$work/files" && find . -type f | sort) | while read -r file; do
    mcopy -m -i "$image" "$work/files/$file" "::/${file#./}"
  done
}

# make_gpt IMAGE: 4 MiB; partition 1 FAT (1 MiB at 1 MiB), partition 2 ext4 (1 MiB at 2 MiB).
make_gpt() {
  local image=$1
  make_fat "$work/fat" 1024
  make_ext4 "$work/ext4" 1024 50564449-0000-4000-8000-000000000012 pvdisk-part2
  rm -f "$image"
  truncate -s 4M "$image"
  sfdisk -q "$image" << 'TABLE'
label: gpt
label-id: 50564449-0000-4000-8000-000000000010
first-lba: 34
start=2048, size=2048, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, uuid=50564449-0000-4000-8000-000000000011, name="pvdisk FAT"
start=4096, size=2048, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=50564449-0000-4000-8000-000000000012, name="pvdisk ext4"
TABLE
  dd if="$work/fat" of="$image" bs=1M seek=1 conv=notrunc,sparse status=none
  dd if="$work/ext4" of="$image" bs=1M seek=2 conv=notrunc,sparse status=none
}

# make_all DIRECTORY
make_all() {
  local out=$1
  make_files
  make_ext4 "$out/ext4.img" 768 50564449-0000-4000-8000-000000000001 pvdisk-ext4
  fallocate --dig-holes "$out/ext4.img"
  make_gpt "$work/gpt.img"
  xz -9e --threads=1 --stdout "$work/gpt.img" > "$out/gpt.img.xz"
  cp "$work/files.sha256" "$out/files.sha256"
  (cd "$out" && sha256sum ext4.img && cd "$work" && sha256sum gpt.img) > "$out/images.sha256"
}

if [[ ${1:-} == --check ]]; then
  mkdir "$work/out"
  make_all "$work/out"
  diff "$here/images.sha256" "$work/out/images.sha256"
  diff "$here/files.sha256" "$work/out/files.sha256"
  (cd "$here" && head -n 1 images.sha256 | sha256sum --quiet -c)
  [[ $(xz -dc "$here/gpt.img.xz" | sha256sum) == "$(sed -n '2s/ .*/  -/p' "$here/images.sha256")" ]]
  echo "make-images: the images are what this script makes"
else
  make_all "${1:-$here}"
fi
