// SPDX-License-Identifier: MIT

import Glibc
import Testing

@Suite("What happens to a disk while it is mounted")
struct LifeTests {
  @Test("disks come to a running machine and leave it, each with a name and an image of its own")
  func attachAndDetach() throws {
    let scene = try Scene()
    try scene.ok("pvdisk create e.img 8M && pvdisk create f.img 4M && mkdir n o")
    try scene.ok("pvdisk mount --daemonize d.img m")
    do {
      let pid = try scene.ok(
        "pvdisk status m --json | python3 -c 'import json,sys; print(json.load(sys.stdin)[\"pid\"])'")
      #expect(try scene.ok("pvdisk attach e.img n --to m") == "\(scene.folder)/n/xvdb\n")
      #expect(try scene.ok("pvdisk attach f.img o --to \(pid.dropLast()) --vdev xvdq -r") == "\(scene.folder)/o/xvdq\n")
      try scene.ok("stat -c %s n/xvdb o/xvdq | tr '\\n' ' ' | grep -qx '\(8 << 20) \(4 << 20) '")
      try scene.ok("printf hello | dd of=n/xvdb bs=512 seek=3 conv=notrunc,fsync status=none")
      #expect(try scene.shell("printf x | dd of=o/xvdq bs=1 conv=notrunc").status != 0, "read-only")
      let twice = try scene.shell("pvdisk attach e.img n --to m --vdev xvdb")
      #expect(twice.status == 3 && twice.errors.contains("in use"), "\(twice)")
      try scene.ok("pvdisk create g.img 1M && mkdir p")
      let taken = try scene.shell("pvdisk attach g.img p --to m --vdev 51712")
      #expect(taken.status != 0 && taken.errors.contains("has a disk xvda"), "\(taken)")
      try scene.ok("dd if=m/xvda bs=4096 count=1 status=none | wc -c | grep -qx 4096")
      try scene.ok("pvdisk detach xvdb --from m && test ! -e n/xvdb && pvdisk detach o && pvdisk status m")
      #expect(try scene.ok("dd if=e.img bs=512 skip=3 count=1 status=none | head -c 5") == "hello")
      // The name is free again.
      #expect(try scene.ok("pvdisk attach f.img n --to m") == "\(scene.folder)/n/xvdb\n")
    }
    // The first disk goes, the machine stays for the other.
    try scene.ok("pvdisk umount m && test ! -e m/xvda && test -e n/xvdb && pvdisk umount n")
    #expect(!scene.isMounted)
  }

  @Test("a detach that has to wait says for whom, and gives up in time")
  func busyDetach() throws {
    let scene = try Scene()
    let outcome = try scene.shell(
      """
      pvdisk mount --daemonize d.img m && exec 9< m/xvda
      pvdisk detach m --timeout 0; echo "first $?"
      (pvdisk detach m --timeout 60; echo "second $?") 9<&- & sleep 0.5; exec 9<&-; wait
      """)
    #expect(outcome.output == "first 2\nsecond 0\n", "\(outcome)")
    #expect(outcome.errors.contains("xvda is in use by process"), "\(outcome)")
    #expect(!scene.isMounted)
    let forced = try scene.shell("pvdisk mount --daemonize d.img m && exec 9< m/xvda && pvdisk detach m --force")
    #expect(forced.status == 0, "\(forced)")
  }

  @Test("an umount does not wait for a process that is stuck where it is started, and /proc with it")
  func stuckProcess() throws {
    let scene = try Scene()
    let outcome = try scene.shell(
      """
      pvdisk create e.img 4M && mkdir n && pvdisk mount --daemonize e.img n
      # Its exec closes the disk's file, which asks a stopped process for an answer, unless that was still quick enough.
      for attempt in $(seq 8); do
        '\(Program.pvdisk)' mount --daemonize --pid-file pid d.img m
        python3 -c 'import os; os.open("m/xvda", os.O_RDONLY); os.kill(int(open("pid").read()), 19); \
          os.execv("/bin/true", ["true"])' & stuck=$!
        state=0
        while [ $state = 0 ]; do
          timeout 0.5 readlink /proc/$stuck/fd/0 >/dev/null; state=$?; sleep 0.05
        done
        [ $state = 124 ] && break
        kill -CONT $(cat pid); wait $stuck; pvdisk umount m
      done
      echo "state $state"
      timeout 60 '\(Program.pvdisk)' umount n; echo "umount $?"
      kill -CONT $(cat pid); wait $stuck; echo "exec $?"
      pvdisk umount m; echo "end $?"
      """)
    #expect(outcome.output == "state 124\numount 0\nexec 0\nend 0\n", "\(outcome)")
    #expect(outcome.errors.contains("is stopped; its disks are left out"), "\(outcome)")
    #expect(!scene.isMounted)
  }

  @Test("a disk grows under those who have it open, by pvdisk's doing and by somebody else's")
  func resize() throws {
    let scene = try Scene()
    try scene.mounted {
      try scene.ok(
        """
        exec 9<> m/xvda; pvdisk resize m 32M && stat -c %s m/xvda | grep -qx \(32 << 20)
        printf hello | dd of=/dev/fd/9 bs=512 seek=65535 conv=notrunc,fsync status=none
        truncate -s 48M d.img && pvdisk resize m && stat -c %s m/xvda | grep -qx \(48 << 20)
        truncate -s 64M d.img; until stat -c %s m/xvda | grep -qx \(64 << 20); do sleep 0.1; done
        """)
      let refused = try scene.shell("pvdisk resize m 8M")
      #expect(refused.status == 3 && refused.errors.contains("--shrink"), "\(refused)")
      try scene.ok("pvdisk resize m 8M --shrink && stat -c '%s' m/xvda d.img | uniq | grep -qx \(8 << 20)")
    }
  }

  @Test("a CD-ROM's medium goes and comes")
  func removableMedium() throws {
    let scene = try Scene()
    try scene.ok("pvdisk create e.img 4M && printf one | dd of=d.img conv=notrunc status=none")
    try scene.ok("printf two | dd of=e.img conv=notrunc status=none && chmod a-w d.img e.img")
    try scene.mounted("--cdrom --xenstore-socket xs") {
      try scene.ok("test $(head -c 3 m/xvda) = one && pvdisk eject m && stat -c %s m/xvda | grep -qx 0")
      #expect(try scene.shell("pvdisk eject m").status == 3)
      try scene.ok("pvdisk insert m e.img && stat -c %s m/xvda | grep -qx \(4 << 20) && test $(head -c 3 m/xvda) = two")
      try scene.ok("pvdisk insert m d.img && test $(head -c 3 m/xvda) = one")
      let node = "/local/domain/0/backend/vbd/1/51712"
      #expect(
        try scene.ok(
          "for n in info device-type removable; do pvdisk xenstore read --socket xs \(node)/$n; done")
          == "5\ncdrom\n1\n")
    }
    try scene.mounted {
      let refused = try scene.shell("pvdisk eject m")
      #expect(refused.errors.contains("--cdrom"), "\(refused)")
    }
  }

  @Test("a backend goes and another comes in mid-I/O, one that offers less")
  func migration() throws {
    let scene = try Scene(size: "32M")
    try scene.mounted("--queues 2") {
      try scene.ok(
        """
        head -c 24M /dev/urandom > data
        (dd if=data of=m/xvda bs=256k oflag=direct conv=notrunc status=none && echo written > ok) &
        pvdisk suspend m && pvdisk status m | grep -q suspended
        pvdisk resume m --no-persistent --indirect-segments 0 --ring-pages 1 --queues 1
        wait; test -e ok && cmp -n \(24 << 20) data m/xvda && pvdisk resume m && cmp -n \(24 << 20) data m/xvda
        """)
      #expect(try scene.ok("pvdisk status m").contains("2 queues of 4 ring pages"))
    }
    try scene.ok("cmp -n \(24 << 20) data d.img")
  }

  @Test("a suspended disk can be unmounted, and keeps what was written")
  func suspendedEnd() throws {
    let scene = try Scene()
    try scene.ok(
      """
      pvdisk mount --daemonize d.img m && printf hello | dd of=m/xvda conv=notrunc status=none && pvdisk suspend m
      pvdisk umount m && test $(head -c 5 d.img) = hello
      """)
  }
}
