// SPDX-License-Identifier: MIT

import BlockIO
import FuseExport
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@Suite("Other people's programs on the disk file")
struct ToolTests {
  @Test("mkfs.ext4 makes a file system that e2fsck finds clean", .enabled(if: Shell.has("mkfs.ext4")))
  func ext4() throws {
    for kind in DiskCase.all {
      try withMountedDisk(geometry: kind.geometry(byteCount: 16 << 20), behaviour: kind.behaviour) { (mounted) throws in
        let made = Shell.run("mkfs.ext4 -q -F '\(mounted.path)' && e2fsck -fn '\(mounted.path)'")
        #expect(made.status == 0, "\(made.output)")
        #expect(mounted.disk.requestCounts.discards > 0)
      }
    }
  }

  @Test("fio finds every block as it wrote it", .enabled(if: Shell.has("fio")), arguments: DiskCase.all)
  func fio(_ kind: DiskCase) throws {
    try withMountedDisk(geometry: kind.geometry(byteCount: 16 << 20), behaviour: kind.behaviour) { (mounted) throws in
      let jobs = [
        "--ioengine=libaio --iodepth=32 --bsrange=4k-128k --rw=randwrite --direct=1",
        "--ioengine=io_uring --iodepth=16 --bs=4k --rw=randrw --io_size=8m --direct=1",
        "--ioengine=psync --bssplit=512/30:3584/30:1m/40 --bs_unaligned=1 --rw=randwrite",
      ]
      for job in jobs {
        let run = Shell.run(
          "cd /tmp && fio --name=v --filename='\(mounted.path)' --size=8m --verify=crc32c --verify_fatal=1"
            + " --do_verify=1 --randseed=7 --allow_file_create=0 --verify_state_save=0 --thread --numjobs=2"
            + " --offset_increment=8m \(job)")
        #expect(run.status == 0, "\(job): \(run.output)")
      }
    }
  }

  @Test("cp and dd copy it, holes and all")
  func copies() throws {
    try withMountedDisk(byteCount: 8 << 20) { (mounted) throws in
      var generator = SeededGenerator(seed: 4)
      let bytes = randomBytes(100_000, &generator)
      try OpenFile(mounted.path).write(bytes, at: 3_000_000)
      let copy = "\(mounted.place.root)/copy"
      defer { unsafe _ = unlink(copy) }
      let run = Shell.run("cp --sparse=auto '\(mounted.path)' \(copy) && cmp '\(mounted.path)' \(copy)")
      #expect(run.status == 0, "\(run.output)")
      #expect(try statusOf(copy).st_blocks * 512 < 1 << 20)
      let back = Shell.run(
        "dd if=/dev/zero of='\(mounted.path)' bs=1M count=8 && dd if=\(copy) of='\(mounted.path)' bs=777")
      #expect(back.status == 0, "\(back.output)")
      #expect(Shell.run("cmp '\(mounted.path)' \(copy)").status == 0)
    }
  }

  @Test("a loop device on it carries an ext4 that stays whole", .enabled(if: geteuid() == 0 && Shell.has("losetup")))
  func loop() throws {
    try withMountedDisk(byteCount: 32 << 20) { (mounted) throws in
      let point = "\(mounted.place.root)/inner"
      let run = Shell.run(
        """
        loop=$(losetup -f --show '\(mounted.path)') || exit 1
        mkdir -p \(point)
        mkfs.ext4 -q $loop && mount $loop \(point) && dd if=/dev/urandom of=\(point)/a bs=64k count=100 &&
          sync -f \(point)/a && cp \(point)/a \(point)/b && cmp \(point)/a \(point)/b && umount \(point) &&
          fsck.ext4 -fn $loop
        status=$?
        umount \(point) 2>/dev/null
        losetup -d $loop
        exit $status
        """)
      #expect(run.status == 0, "\(run.output)")
      unsafe _ = rmdir(point)
    }
  }
}
