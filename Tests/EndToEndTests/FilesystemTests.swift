// SPDX-License-Identifier: MIT

import Glibc
import Testing

/// A way to attach a disk, as options of the command.
struct MountWay: CustomTestStringConvertible, Sendable {
  var options: String
  var testDescription: String { options.isEmpty ? "defaults" : options }

  static let all = [
    "", "--placement threads", "--queues 4 --ring-pages 1", "--protocol x86_32 --no-persistent", "--cache none",
    "--indirect-segments 0 --mapping alias", "--fuse-transport dev --sector-size 4096",
  ].map { MountWay(options: $0) }
}

@Suite("File systems and other people's programs on a mounted disk")
struct FilesystemTests {
  @Test("ext4, XFS and FAT are made on it and found clean", arguments: MountWay.all)
  func filesystems(way: MountWay) throws {
    let scene = try Scene(size: "512M")
    try scene.mounted(way.options) {
      try scene.ok("mkfs.ext4 -q -F m/xvda && e2fsck -fn m/xvda")
      try scene.ok("mkfs.xfs -q -f m/xvda && xfs_repair -n m/xvda")
      if !way.options.contains("4096") { try scene.ok("mkfs.vfat -F 32 m/xvda && fsck.vfat -n m/xvda") }
    }
  }

  @Test(
    "a file system with files in it is carried over an unmount", .enabled(if: Program.canLoop),
    arguments: ["ext4", "xfs", "btrfs"])
  func carried(kind: String) throws {
    let scene = try Scene(size: "512M")
    try scene.ok(
      "mkdir in; mkdir -p tree/a/b; for i in $(seq 60); do head -c $((i * 3001)) /dev/urandom > tree/a/b/$i; done")
    try scene.ok("(cd tree && find . -type f | sort | xargs sha256sum) > sums")
    let make = ["ext4": "mkfs.ext4 -q -F", "xfs": "mkfs.xfs -q -f", "btrfs": "mkfs.btrfs -q -f"]
    let check = ["ext4": "e2fsck -fn", "xfs": "xfs_repair -n", "btrfs": "btrfs check"]
    try scene.mounted("--queues 2") {
      _ = try scene.ok(
        """
        \(make[kind] ?? "false") m/xvda && mount -o loop m/xvda in && cp -r tree/. in/ && umount in && \(check[kind] ?? "false") m/xvda
        """)
    }
    try scene.mounted("--read-only") {
      _ = try scene.ok(
        "mount -o loop,ro m/xvda in && (cd in && sha256sum --quiet -c ../sums); r=$?; umount in; exit $r")
    }
    try scene.ok("\(check[kind] ?? "false") d.img")
  }

  @Test("fio reads back every block that it wrote", .enabled(if: Program.isInstalled("fio")), arguments: MountWay.all)
  func fio(way: MountWay) throws {
    let scene = try Scene(size: "64M")
    try scene.mounted(way.options) {
      let rests =
        way.options.contains("4096") ? "--bsrange=4k-1m" : "--bssplit=512/10:4k/40:7k/10:64k/20:1m/20 --bs_unaligned=1"
      try scene.ok(
        """
        fio --name=v --filename=m/xvda --size=16m --offset_increment=16m --numjobs=4 --thread --rw=randwrite --direct=1 \\
          --ioengine=libaio --iodepth=8 \(rests) --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=11 \\
          --allow_file_create=0 --verify_state_save=0 --output=fio.out
        """)
    }
  }

  @Test(
    "the partitions of a GPT disk appear behind a loop device",
    .enabled(if: Program.canLoop && Program.isInstalled("sfdisk")))
  func partitions() throws {
    let scene = try Scene(size: "16M")
    try scene.mounted {
      let output = try scene.ok(
        """
        printf 'label: gpt\\nsize=8192\\nsize=8192\\n' | sfdisk -q m/xvda
        sfdisk -l -o Start,Sectors m/xvda | tail -n 2 | tr -s ' '
        """)
      #expect(output == "2048 8192\n10240 8192\n" || output == " 2048 8192\n10240 8192\n")
    }
  }

  @Test("qemu reads and writes it as a raw disk", .enabled(if: Program.isInstalled("qemu-io")))
  func qemu() throws {
    let scene = try Scene()
    try scene.mounted {
      let output = try scene.ok(
        """
        qemu-io -f raw -t none -c 'write -P 0x5a 1M 3M' -c 'write -z 2M 64k' -c 'discard 3M 64k' -c flush \\
          -c 'read -P 0x5a 1M 1M' -c 'read -P 0 2M 64k' -c 'read -P 0 3M 64k' m/xvda
        qemu-img map --output=json -f raw m/xvda
        """)
      #expect(!output.contains("failed"), "\(output)")
      #expect(output.contains("\"zero\": true"), "holes are seen through the disk: \(output)")
    }
  }

  @Test("the file can be mapped into memory where the kernel allows it", .enabled(if: Program.isInstalled("python3")))
  func mapping() throws {
    let scene = try Scene()
    try scene.ok("head -c 16M /dev/urandom > d.img && cp d.img copy")
    try scene.mounted {
      let output = try scene.ok(
        """
        python3 - <<'PY'
        from os import O_RDWR, open as openfile, pread
        from mmap import mmap
        f = openfile("m/xvda", O_RDWR)
        try:
            m = mmap(f, 0)
        except OSError as e:
            print("refused", e.errno)
        else:
            same = m[:] == open("copy", "rb").read()
            m[5_000_000:5_000_004] = b"mmap"
            m.flush()
            print("mapped", same, pread(f, 4, 5_000_000))
        PY
        """)
      // Linux refuses a shared mapping of a file with direct I/O before 6.6.
      #expect(output == "mapped True b'mmap'\n" || output == "refused 19\n", "\(output)")
    }
  }
}
