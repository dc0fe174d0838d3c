// SPDX-License-Identifier: MIT

import Glibc
import Testing

/// Something that cannot work, and how the command must say so.
struct BadCall: CustomTestStringConvertible, Sendable {
  var testDescription: String
  /// What is done before; `d.img` of 16 MiB and an empty folder `m` are there.
  var setUp = ""
  var call: String
  var status: CInt
  /// What the sentence must name, and what it must say of the way out.
  var words: [String]
  /// What is done afterwards.
  var tearDown = ""

  init(
    _ name: String, _ call: String, _ status: CInt, _ words: [String], before setUp: String = "",
    after tearDown: String = ""
  ) {
    testDescription = name
    self.setUp = setUp
    self.call = call
    self.status = status
    self.words = words
    self.tearDown = tearDown
  }

  static let usage: [BadCall] = [
    BadCall("no queues", "pvdisk mount --queues 0 d.img m", 1, ["--queues", "between 1 and"]),
    BadCall("more queues than a machine has", "pvdisk mount --queues 1000 d.img m", 1, ["--queues", "1000"]),
    BadCall("three ring pages", "pvdisk mount --ring-pages 3 d.img m", 1, ["--ring-pages", "1, 2, 4, 8 or 16", "3"]),
    BadCall("a negative number", "pvdisk mount --ring-pages -1 d.img m", 1, ["--help"]),
    BadCall("too many segments", "pvdisk mount --indirect-segments 5000 d.img m", 1, ["--indirect-segments", "4096"]),
    BadCall("a number that is none", "pvdisk mount --queues many d.img m", 1, ["many", "--queues"]),
    BadCall("an unknown option", "pvdisk mount --colour red d.img m", 1, ["--colour", "pvdisk mount --help"]),
    BadCall("an unknown command", "pvdisk mont d.img m", 1, ["mont", "--help"]),
    BadCall("an unknown protocol", "pvdisk mount --protocol virtio d.img m", 1, ["virtio", "--protocol"]),
    BadCall("an unknown placement", "pvdisk mount --placement cloud d.img m", 1, ["cloud", "--placement"]),
    BadCall(
      "an odd sector size", "pvdisk mount --sector-size 520 d.img m", 1, ["--sector-size", "512 or 4096", "520"]),
    BadCall("a disk name that is none", "pvdisk mount --vdev xyz d.img m", 1, ["xyz", "xvda"]),
    BadCall("an unknown FUSE option", "pvdisk mount -o fast d.img m", 1, ["fast"]),
    BadCall("no mount point named", "pvdisk mount d.img", 1, ["mountpoint", "--help"]),
    BadCall("no command to run", "pvdisk run d.img", 1, ["command", "--"]),
    BadCall("a size that is none", "pvdisk create e.img large", 1, ["large", "--help"]),
    BadCall("a size of nothing", "pvdisk create e.img 0", 1, ["sectors"]),
    BadCall("a size with half a sector", "pvdisk create e.img 700", 1, ["512", "700"]),
  ]

  static let images: [BadCall] = [
    BadCall("a missing image", "pvdisk mount none.img m", 3, ["none.img", "does not exist", "pvdisk create"]),
    BadCall("an image that is a folder", "pvdisk mount folder m", 3, ["folder", "director"], before: "mkdir folder"),
    BadCall("an image of no length", "pvdisk mount empty.img m", 3, ["empty.img", "empty"], before: ": > empty.img"),
    BadCall(
      "an image of less than a sector", "pvdisk mount tiny.img m", 3, ["tiny.img", "sector"],
      before: "printf 'some bytes' > tiny.img"),
    BadCall(
      "an image that another pvdisk holds", "pvdisk mount d.img n", 3, ["d.img", "in use", "pvdisk"],
      before: "mkdir n; pvdisk mount --daemonize d.img m", after: "pvdisk umount m"),
    BadCall("an image that cannot be run", "pvdisk run none.img -- true", 3, ["none.img"]),
    BadCall("an image that exists already", "pvdisk create d.img 1M", 3, ["d.img", "exists"]),
    BadCall("an image in a folder that is not there", "pvdisk create no/e.img 1M", 3, ["no/e.img"]),
  ]

  static let environment: [BadCall] = [
    BadCall("a missing mount point", "pvdisk mount d.img none", 2, ["none", "create an empty directory"]),
    BadCall("a mount point with files in it", "pvdisk mount d.img m", 2, ["m", "empty"], before: "touch m/file"),
    BadCall(
      "a mount point that is taken", "pvdisk mount e.img m", 2, ["already mounted on m", "unmount"],
      before: "pvdisk create e.img 1M; pvdisk mount --daemonize d.img m", after: "pvdisk umount m"),
    BadCall("a pid file that cannot be written", "pvdisk mount --pid-file no/pid d.img m", 2, ["no/pid"]),
    BadCall(
      "a store socket that cannot be made", "pvdisk mount --xenstore-socket no/socket d.img m", 2, ["no/socket"]),
    BadCall("an unmount of nothing", "pvdisk umount m", 2, ["nothing is mounted on m"]),
    BadCall("the status of nothing", "pvdisk status m", 2, ["m", "pvdisk status"]),
    BadCall(
      "a mount that is not ours", "pvdisk umount /proc", 2, ["/proc", "proc"]),
  ]
}

@Suite("What cannot work is refused in one sentence, and nothing is left behind")
struct BadInputTests {
  @Test("a call that makes no sense ends with status 1", arguments: BadCall.usage)
  func usage(_ call: BadCall) throws { try check(call) }

  @Test("an image that cannot be served ends with status 3", arguments: BadCall.images)
  func images(_ call: BadCall) throws { try check(call) }

  @Test("what the machine does not allow ends with status 2", arguments: BadCall.environment)
  func environment(_ call: BadCall) throws { try check(call) }

  func check(_ call: BadCall) throws {
    let scene = try Scene()
    try scene.ok("head -c 16M /dev/urandom > d.img\n" + call.setUp)
    let before = try scene.ok("sha256sum d.img; ls -A . m | grep -v '^.run'")
    let outcome = try scene.shell("timeout 120 '\(Program.pvdisk)' \(call.call.dropFirst("pvdisk ".count))")
    #expect(outcome.status == call.status, "\(outcome)")
    #expect(outcome.output.isEmpty)
    let lines = outcome.errors.split(separator: "\n")
    #expect(lines.count == 1, "\(outcome)")
    #expect(outcome.errors.hasPrefix("pvdisk: "))
    for word in call.words {
      #expect(outcome.errors.lowercased().contains(word.lowercased()), "\(word) is not in: \(outcome.errors)")
    }
    if !call.tearDown.isEmpty {
      #expect(try scene.ok("sha256sum d.img; ls -A . m | grep -v '^.run'") == before)
      try scene.ok(call.tearDown)
    } else {
      #expect(try scene.ok("sha256sum d.img; ls -A . m | grep -v '^.run'") == before)
    }
    #expect(!scene.isMounted)
  }

  @Test("bytes behind the last whole sector are announced, and kept")
  func tail() throws {
    let scene = try Scene()
    try scene.ok("printf 'the tail' >> d.img")
    let outcome = try scene.shell("pvdisk run d.img -- sh -c 'stat -c %s $PVDISK; mkfs.ext4 -q -F $PVDISK'")
    #expect(outcome.status == 0, "\(outcome)")
    #expect(outcome.output == "\(16 << 20)\n")
    #expect(outcome.errors.contains("8 bytes") && outcome.errors.contains("kept"))
    #expect(try scene.ok("tail -c 8 d.img") == "the tail")
  }

  @Test("without a FUSE device, or rights to it, the command says so", .enabled(if: geteuid() == 0))
  func noDevice() throws {
    let scene = try Scene()
    let cases = [
      ("mount -t tmpfs none /dev && '\(Program.pvdisk)' mount d.img m", "/dev/fuse"),
      (
        "mknod fuse c 10 229 && chmod 600 fuse && mount --bind fuse /dev/fuse && chown 65534 . d.img m && "
          + "setpriv --reuid 65534 --clear-groups env -u XDG_RUNTIME_DIR '\(Program.pvdisk)' mount d.img m", "/dev/fuse"
      ),
    ]
    for (script, word) in cases {
      let outcome = try scene.shell("unshare -m sh -c \"mount --make-rprivate / && \(script)\"; echo $? > status")
      #expect(try Files.text("\(scene.folder)/status") == "2\n", "\(outcome)")
      #expect(outcome.errors.contains(word) && outcome.errors.split(separator: "\n").count == 1, "\(outcome)")
    }
    #expect(!scene.isMounted)
  }
}
