// SPDX-License-Identifier: MIT

import Glibc
import Testing

@Suite("A disk through which the kernel gets memory back")
struct ReclaimTests {
  /// Whether this process has CAP_SYS_RESOURCE, bit 24.
  static let maySet = unsafe system("[ $((0x$(sed -n 's/^CapEff:.//p' /proc/self/status) >> 24 & 1)) = 1 ]") == 0

  @Test(
    "a mount asks to be an I/O flusher before it starts a thread",
    .enabled(if: Program.isInstalled("strace") && Program.canLoop))
  func asks() throws {
    let scene = try Scene()
    let output = try scene.ok(
      """
      timeout 60 strace -f -e trace=prctl,clone,clone3 -o calls '\(Program.pvdisk)' mount d.img m &
      for i in $(seq 300); do pvdisk status m >/dev/null 2>&1 && break; sleep 0.1; done
      pvdisk umount m
      wait $!
      grep -m 1 -E 'IO_FLUSHER|CLONE_THREAD' calls
      """)
    #expect(output.contains("PR_SET_IO_FLUSHER, 1"), "\(output)")
  }

  @Test("no thread of a mounted disk waits for memory that only the disk could free", .enabled(if: maySet))
  func flusher() throws {
    let scene = try Scene()
    let output = try scene.ok(
      """
      pvdisk mount --daemonize --pid-file pid --queues 2 --placement threads d.img m
      trap 'pvdisk umount m' EXIT
      dd if=m/xvda of=/dev/null bs=1M status=none
      for thread in /proc/$(cat pid)/task/*; do
        flags=$(sed 's/.*) //' $thread/stat | cut -d' ' -f7)
        # PF_MEMALLOC_NOIO (linux/sched.h), which PR_SET_IO_FLUSHER sets.
        if (( flags & 0x80000 )); then echo flusher; else echo "$(cat $thread/comm) is none"; fi
      done | sort | uniq -c
      """)
    #expect(output.split(separator: "\n").count == 1 && output.contains("flusher"), "\(output)")
  }
}
