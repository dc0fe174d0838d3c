// SPDX-License-Identifier: MIT

import Glibc
import Testing

@Suite("The command, as people use it")
struct CommandTests {
  @Test("create, mount, mkfs, fsck, umount: the first five minutes")
  func firstSteps() throws {
    let scene = try Scene(size: nil)
    try scene.ok(
      """
      pvdisk create d.img 256M && pvdisk mount --daemonize d.img m && mkfs.ext4 -q -F m/xvda && e2fsck -fn m/xvda &&
        pvdisk umount m
      """)
    #expect(!scene.isMounted)
    #expect(try scene.ok("stat -c '%s' d.img") == "\(256 << 20)\n")
    // Sparse stays sparse: an ext4 of 256 MiB takes a few.
    let blocks = try #require(Int(try scene.ok("stat -c '%b' d.img").dropLast()))
    #expect(blocks * 512 < 64 << 20)
    try scene.ok("e2fsck -fn d.img")
  }

  @Test("an ordinary user does the same", .enabled(if: geteuid() == 0 && Program.isInstalled("setpriv")))
  func ordinaryUser() throws {
    let scene = try Scene(size: nil)
    let script =
      "cd '\(scene.folder)' && '\(Program.pvdisk)' create d.img 256M && '\(Program.pvdisk)' mount --daemonize d.img m"
      + " && mkfs.ext4 -q -F m/xvda && e2fsck -fn m/xvda && '\(Program.pvdisk)' status m --json"
      + " && '\(Program.pvdisk)' umount m && e2fsck -fn d.img"
    try Files.write(script, to: "\(scene.folder)/user.sh")
    // As most systems have it, /dev/fuse is open to all here; in a mount namespace, so that the machine stays as it is.
    let outcome = try scene.shell(
      """
      chown -R 65534:65534 . && export PATH=$PATH:/usr/sbin:/sbin
      unshare -m sh -c 'mount --make-rprivate / && mknod fuse c 10 229 && chmod 666 fuse && mount --bind fuse /dev/fuse &&
        exec setpriv --reuid 65534 --regid 65534 --clear-groups env -u XDG_RUNTIME_DIR sh user.sh'
      """)
    #expect(outcome.status == 0, "\(outcome)")
    #expect(outcome.output.contains("\"mountPoint\" : \"\(scene.point)\""))
  }

  @Test("a mount point that is a file becomes the disk")
  func fileMountPoint() throws {
    let scene = try Scene()
    try scene.ok(
      """
      : > disk && pvdisk mount --daemonize d.img disk && stat -c %s disk | grep -qx \(16 << 20) &&
        printf hello | dd of=disk bs=512 seek=7 conv=notrunc,fsync status=none && pvdisk umount disk && test ! -s disk
      """)
    #expect(try scene.ok("dd if=d.img bs=512 skip=7 count=1 status=none | head -c 5") == "hello")
  }

  @Test("run gives a command the disk, and exits as it did")
  func run() throws {
    let scene = try Scene()
    #expect(try scene.shell("pvdisk run d.img -- sh -c 'exit 7'").status == 7)
    #expect(try scene.shell("pvdisk run d.img -- sh -c 'kill -TERM $$'").status == 128 + SIGTERM)
    #expect(try scene.shell("pvdisk run d.img -- no-such-program").status == 127)
    let outcome = try scene.shell(
      "pvdisk run --statistics d.img -- sh -c 'dd if=/dev/zero of=$PVDISK bs=1M count=3 status=none'")
    #expect(outcome.status == 0)
    #expect(outcome.errors.contains("\"wr_sect\" : 6144"), "\(outcome)")
    #expect(try scene.ok("ls -d /tmp/pvdisk-run-* 2>/dev/null | wc -l").isEmpty == false)
  }

  @Test("a read-only disk refuses writes, and two may show it at once")
  func readOnly() throws {
    let scene = try Scene()
    try scene.ok("mkfs.ext4 -q -F d.img && chmod 444 d.img && sha256sum d.img > sum && mkdir n")
    try scene.mounted("-r") {
      #expect(try scene.shell("printf x > m/xvda").status != 0)
      #expect(try scene.shell("dd if=/dev/zero of=m/xvda bs=512 count=1 conv=notrunc").errors.contains("Read-only"))
      try scene.ok(
        "pvdisk mount --daemonize --read-only d.img n && cmp m/xvda n/xvda && e2fsck -fn n/xvda && pvdisk umount n")
    }
    try scene.ok("sha256sum -c sum")
  }

  @Test("status, with and without --json, says what is mounted and what it did")
  func status() throws {
    let scene = try Scene()
    try scene.mounted("--queues 2 --ring-pages 8") {
      try scene.ok("dd if=/dev/urandom of=m/xvda bs=64k count=4 conv=fsync status=none")
      let fields = try scene.ok(
        """
        pvdisk status m --json | python3 -c 'import json,sys
        d = json.load(sys.stdin)
        b = d["statistics"]["backend"]
        print(d["file"], d["bytes"], d["queues"], d["ringPages"], b["wr_sect"], b["f_req"] > 0, d["readOnly"])'
        """)
      #expect(fields == "\(scene.disk) \(16 << 20) 2 8 512 True False\n")
      #expect(try scene.ok("pvdisk status m").contains("256 KiB written"))
      try scene.ok(
        "pvdisk status --json | python3 -c 'import json,sys; assert any(d[\"file\"] == \"\(scene.disk)\" for d in json.load(sys.stdin))'"
      )
    }
  }

  @Test("a pid file is there when the disk is ready, and gone when it ends; statistics are JSON")
  func pidFile() throws {
    let scene = try Scene()
    let outcome = try scene.shell(
      """
      '\(Program.pvdisk)' mount --pid-file pid --statistics d.img m > statistics &
      while [ ! -s pid ]; do sleep 0.05; done
      test -e m/xvda && kill -0 $(cat pid) && pvdisk umount m && wait $! && test ! -e pid &&
        python3 -c 'import json; json.load(open("statistics"))["backend"]["rd_req"]'
      """)
    #expect(outcome.status == 0, "\(outcome)")
  }

  @Test("doctor finds this machine fit, and speaks JSON")
  func doctor() throws {
    let scene = try Scene(size: nil)
    let outcome = try scene.shell("pvdisk doctor")
    #expect(outcome.status == 0 && outcome.output.contains("/dev/fuse"), "\(outcome)")
    try scene.ok(
      "pvdisk doctor --json | python3 -c 'import json,sys; assert all(f[\"state\"] for f in json.load(sys.stdin))'")
  }

  @Test("the store of a mounted disk answers the stock clients", .enabled(if: Program.isInstalled("xenstore-ls")))
  func stockClients() throws {
    let scene = try Scene()
    try scene.mounted("--xenstore-socket xs") {
      let tree = try scene.ok("XENSTORED_PATH=$PWD/xs xenstore-ls -f /local/domain/1/device/vbd/51712")
      #expect(tree.contains("/state = \"4\"") && tree.contains("/protocol = \"x86_64-abi\""), "\(tree)")
      #expect(
        try scene.ok("XENSTORED_PATH=$PWD/xs xenstore-read /local/domain/0/backend/vbd/1/51712/sectors") == "32768\n")
    }
    #expect(!Files.exists("\(scene.folder)/xs"))
  }

  @Test("as mount(8)'s helper it takes an fstab line's options, and bears those that it does not know")
  func mountHelper() throws {
    let scene = try Scene()
    try scene.ok("ln -s '\(Program.pvdisk)' mount.fuse.pvdisk")
    let options = "ro,nofail,noauto,x-systemd.automount,_netdev,noexec,queues=1,ring-pages=8,no-persistent,allow_other"
    try scene.ok("./mount.fuse.pvdisk d.img m -n -o \(options) -t fuse.pvdisk")
    let fields = try scene.ok(
      """
      pvdisk status m --json | python3 -c 'import json,sys
      d = json.load(sys.stdin)
      print(d["readOnly"], d["queues"], d["ringPages"], d["persistentGrants"])'
      """)
    #expect(fields == "True 1 8 False\n")
    try scene.ok("pvdisk umount m")
    let refused = try scene.shell("./mount.fuse.pvdisk none.img m -o rw")
    #expect(refused.status == 3 && refused.errors.contains("none.img"), "\(refused)")
  }

  @Test("--verbose tells the handshake as it happens")
  func verbose() throws {
    let scene = try Scene()
    let outcome = try scene.shell("pvdisk run --verbose d.img -- true")
    for line in ["(InitWait)", "ring-ref", "event-channel", "sectors = \"32768\"", "(Connected)"] {
      #expect(outcome.errors.contains(line), "\(line) is not in \(outcome.errors)")
    }
  }

  @Test("every command has help, which goes to standard output with status 0")
  func help() throws {
    let scene = try Scene(size: nil)
    let commands = try scene.ok("pvdisk --help").split(separator: "\n").filter {
      $0.hasPrefix("  ") && !$0.hasPrefix("   ")
    }
    .compactMap { $0.split(separator: " ").first }.filter { !$0.hasPrefix("-") && !$0.hasPrefix("<") }
    #expect(commands.count >= 8, "\(commands)")
    for command in commands where command != "help" {
      let outcome = try scene.shell("pvdisk \(command) --help")
      #expect(
        outcome.status == 0 && outcome.errors.isEmpty && outcome.output.contains("OVERVIEW"), "\(command): \(outcome)")
    }
    #expect(try scene.ok("pvdisk --version").split(separator: ".").count == 3)
  }
}
