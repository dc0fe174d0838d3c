// SPDX-License-Identifier: MIT

import Dispatch
import Glibc
import Synchronization
import Testing

/// What one writer knows: the last value whose fsync returned, and the last one that it began to write.
private struct Ledger {
  var durable: UInt8 = 0
  var begun: UInt8 = 0
}

@Suite("How a mount ends")
struct EndingTests {
  @Test("a signal during load loses nothing that was synced, and ends the mount", arguments: [SIGINT, SIGTERM])
  func signalUnderLoad(signal: CInt) throws {
    let scene = try Scene()
    try scene.ok("'\(Program.pvdisk)' mount --daemonize --pid-file pid d.img m")
    let pid = try #require(pid_t(try Files.text("\(scene.folder)/pid").dropLast()))
    let path = scene.disk
    let writers = Writers(path: path, count: 4)
    writers.start()
    while writers.leastDurable < 3 { usleep(1000) }
    #expect(kill(pid, signal) == 0)
    // The mount stays for those who have the file open; they are asked to stop, as a person would stop them.
    while !writers.areRefused, kill(pid, 0) == 0, writers.leastDurable < 200 { usleep(1000) }
    let ledgers = writers.stop()
    while kill(pid, 0) == 0 { usleep(5000) }
    #expect(!scene.isMounted && !Files.exists("\(scene.folder)/pid"))
    try check(ledgers, in: scene)
  }

  @Test("a second signal ends it at once, with an error, and still nothing synced is lost")
  func secondSignal() throws {
    let scene = try Scene()
    try Files.write(
      "'\(Program.pvdisk)' mount --pid-file pid d.img m; echo $? > status\n", to: "\(scene.folder)/run.sh")
    _ = try scene.ok("setsid bash run.sh >/dev/null 2>&1 & while [ ! -s pid ]; do sleep 0.02; done")
    let pid = try #require(pid_t(try Files.text("\(scene.folder)/pid").dropLast()))
    let writers = Writers(path: scene.disk, count: 2)
    writers.start()
    while writers.leastDurable < 3 { usleep(1000) }
    kill(pid, SIGTERM)
    while scene.isMounted { usleep(1000) }
    kill(pid, SIGTERM)
    let ledgers = writers.stop()
    while (try? Files.text("\(scene.folder)/status"))?.isEmpty ?? true { usleep(5000) }
    #expect(try Files.text("\(scene.folder)/status") == "2\n")
    try check(ledgers, in: scene)
  }

  @Test("a killed mount releases its callers, loses nothing synced, and umount cleans up after it")
  func killed() throws {
    let scene = try Scene()
    try scene.ok("'\(Program.pvdisk)' mount --daemonize --pid-file pid d.img m")
    let pid = try #require(pid_t(try Files.text("\(scene.folder)/pid").dropLast()))
    let writers = Writers(path: scene.disk, count: 4)
    writers.start()
    while writers.leastDurable < 3 { usleep(1000) }
    #expect(kill(pid, SIGKILL) == 0)
    // No stop is asked for: every writer must be told by its own call.
    let ledgers = writers.waitUntilRefused()
    try scene.ok("pvdisk umount m")
    #expect(!scene.isMounted)
    try check(ledgers, in: scene)
    try scene.mounted {}
  }

  @Test("umount refuses a disk that is in use, and says by whom; --force ends it")
  func busy() throws {
    let scene = try Scene()
    try scene.ok("pvdisk mount --daemonize d.img m")
    let disk = try OpenDisk(scene.disk)
    try disk.write([1, 2, 3], at: 0)
    let refused = try scene.shell("pvdisk umount m")
    #expect(refused.status == 2 && refused.errors.contains("process \(getpid())"), "\(refused)")
    #expect(try disk.read(3, at: 0) == [1, 2, 3])
    try scene.ok("pvdisk umount --force m")
    #expect(throws: CallFailure.self) { try disk.read(3, at: 0) }
    #expect(!scene.isMounted)
    #expect(try Array(Files.bytes(scene.image)[..<3]) == [1, 2, 3])
  }

  @Test(
    "umount waits for a loop device that is about to go, and refuses while one stays", .enabled(if: Program.canLoop))
  func leavingLoop() throws {
    let scene = try Scene(size: "64M")
    let outcome = try scene.shell(
      """
      set -e
      pvdisk mount --daemonize d.img m
      mkfs.ext4 -q -F m/xvda; mkdir in; mount -o loop m/xvda in
      pvdisk umount m 2>mounted && exit 9
      loop=$(losetup -n -O NAME -j m/xvda)
      # Somebody looks at it while it is unmounted, as udev does.
      exec 3<$loop; umount in; (sleep 0.5) & exec 3<&-
      losetup -n -O NAME -j m/xvda >left
      pvdisk umount m
      """)
    #expect(outcome.status == 0, "\(outcome)")
    #expect(try Files.text("\(scene.folder)/mounted").contains("is in use by /dev/loop"))
    #expect(try Files.text("\(scene.folder)/left").contains("/dev/loop"), "it was there when umount was asked")
    #expect(!scene.isMounted)
  }

  @Test("fusermount3 -u ends it as well, flushed")
  func fusermount() throws {
    let scene = try Scene()
    try scene.ok(
      """
      pvdisk mount --daemonize --pid-file pid d.img m; pid=$(cat pid)
      printf data | dd of=m/xvda bs=512 conv=notrunc status=none
      fusermount3 -u m; while kill -0 $pid 2>/dev/null; do sleep 0.02; done; test ! -e pid; head -c 4 d.img | grep -q data
      """)
    #expect(!scene.isMounted)
  }

  @Test("a last flush that fails is exit status 4 of umount and of mount", .enabled(if: Program.canLoop))
  func failedFlush() throws {
    // A block device with less behind it than it claims: writes reach its page cache, and are lost when they leave it.
    let scene = try Scene(size: nil)
    try scene.ok("mkdir fs && mount -t tmpfs -o size=4M none fs && truncate -s 64M fs/disk")
    let loop = try scene.ok("losetup -f --show fs/disk").dropLast()
    defer { _ = try? scene.shell("losetup -d \(loop); umount fs") }
    let outcome = try scene.shell(
      """
      { '\(Program.pvdisk)' mount --pid-file pid \(loop) m 2>mount.txt; echo $? > status; } &
      while [ ! -s pid ]; do sleep 0.02; done
      dd if=/dev/urandom of=m/xvda bs=1M count=16 conv=notrunc status=none; echo "write $?"
      pvdisk umount m; echo "umount $?"
      wait; echo "mount $(cat status)"; cat mount.txt >&2
      """)
    #expect(outcome.output == "write 0\numount 4\nmount 4\n", "\(outcome)")
    #expect(outcome.errors.contains("may be lost"), "\(outcome)")
  }

  @Test("a full file system under the image is told to the caller, and service goes on", .enabled(if: Program.canLoop))
  func fullFileSystem() throws {
    let scene = try Scene(size: nil)
    try scene.ok("mkdir fs && mount -t tmpfs -o size=8M none fs && pvdisk create fs/d.img 64M")
    defer { _ = try? scene.shell("umount fs") }
    let outcome = try scene.shell(
      """
      pvdisk mount --daemonize fs/d.img m
      dd if=/dev/zero of=m/xvda bs=1M count=32 conv=notrunc 2>dd.txt; echo "full $?"
      grep -o 'Input.output error' dd.txt
      fallocate -p -o 0 -l 4M m/xvda
      dd if=/dev/urandom of=m/xvda bs=1M count=1 conv=notrunc,fsync status=none; echo "again $?"
      pvdisk umount m; echo "umount $?"
      """)
    #expect(outcome.output == "full 1\nInput/output error\nagain 0\numount 0\n", "\(outcome)")
  }

  private func check(_ ledgers: [(durable: UInt8, begun: UInt8)], in scene: Scene) throws {
    let bytes = try Files.bytes(scene.image)
    for (index, ledger) in ledgers.enumerated() {
      let start = index * Writers.stride
      for sector in 0..<Writers.length / 512 {
        #expect(bytes.isUniform(from: start + sector * 512, count: 512), "a torn sector of writer \(index)")
        let value = bytes[start + sector * 512]
        #expect(value >= ledger.durable && value <= ledger.begun, "writer \(index): \(value), not in \(ledger)")
      }
    }
  }
}

/// Threads that write ever higher values over their own piece of a disk, and sync each.
private final class Writers: Sendable {
  static let stride = 1 << 20
  static let length = 64 << 10

  private let path: String
  private let ledgers: Mutex<[Ledger]>
  private let refused = Atomic<Int>(0)
  private let isStopping = Atomic<Bool>(false)
  private let group = DispatchGroup()
  private let count: Int

  init(path: String, count: Int) {
    self.path = path
    self.count = count
    ledgers = Mutex(Array(repeating: Ledger(), count: count))
  }

  var leastDurable: UInt8 { ledgers.withLock { $0.map(\.durable).min() ?? 0 } }
  var areRefused: Bool { refused.load(ordering: .acquiring) == count }

  func start() {
    for index in 0..<count {
      DispatchQueue.global().async(group: group) { self.write(index) }
    }
  }

  private func write(_ index: Int) {
    defer { refused.add(1, ordering: .releasing) }
    guard let disk = try? OpenDisk(path) else { return }
    for value in UInt8(1)...250 where !isStopping.load(ordering: .relaxed) {
      ledgers.withLock { $0[index].begun = value }
      do {
        try disk.write(Array(repeating: value, count: Self.length), at: index * Self.stride)
        try disk.sync()
      } catch { return }
      ledgers.withLock { $0[index].durable = value }
    }
  }

  /// Lets each finish its write.
  func stop() -> [(durable: UInt8, begun: UInt8)] {
    isStopping.store(true, ordering: .relaxed)
    return waitUntilRefused()
  }

  func waitUntilRefused() -> [(durable: UInt8, begun: UInt8)] {
    group.wait()
    return ledgers.withLock { $0.map { ($0.durable, $0.begun) } }
  }
}
