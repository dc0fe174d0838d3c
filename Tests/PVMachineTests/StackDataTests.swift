// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import DiskImages
import Glibc
import GuestMemory
import PVMachine
import PVTestSupport
import Testing
import XenBus
import XenHypervisor
import XenStore
import XenWire

/// One way to attach a disk, with a name for the test's title.
struct Way: CustomTestStringConvertible, Sendable {
  var testDescription: String
  var configuration = DiskConfiguration()

  init(_ name: String, _ change: (inout DiskConfiguration) -> Void) {
    testDescription = name
    change(&configuration)
  }

  static let all: [Way] = [
    Way("defaults") { _ in },
    Way("direct requests only") { $0.indirectSegments = 0 },
    Way("indirect requests of 32") { $0.indirectSegments = 32 },
    Way("indirect requests of 4096, over two descriptor pages") { $0.indirectSegments = 4096 },
    Way("16 ring pages") { $0.ringPages = 16 },
    Way("grants of the frontend not persistent") { $0.frontPersistent = false },
    Way("mappings of the backend not persistent") { $0.backPersistent = false },
    Way("a persistent cache that overflows") { $0.maxPersistentGrants = 40 },
    Way("a persistent cache that overflows, true LRU") {
      $0.maxPersistentGrants = 40
      $0.purgePolicy = .leastRecentlyUsed
    },
    Way("a backend that is not trusted") { $0.isBackendTrusted = false },
    Way("threads") { $0.placement = .threads },
    Way("threads, without persistent grants") {
      $0.placement = .threads
      $0.frontPersistent = false
      $0.spinNanoseconds = 0
    },
  ]
}

@Suite("A disk behind the whole stack")
struct StackDataTests {
  @Test("random I/O through the stack leaves what it leaves on a disk", arguments: Way.all)
  func randomIO(way: Way) throws {
    try exercise(way.configuration, mapping: .remap)
  }

  @Test("the 32-bit and the Arm ring carry the same data")
  func otherABIs() throws {
    var configuration = DiskConfiguration()
    configuration.blockProtocol = .x86_32
    try exercise(configuration, mapping: .remap)
    configuration.blockProtocol = .arm
    try exercise(configuration, mapping: .alias)
  }

  @Test("a driver that reaches the store through its guest's ring page gets the same disk")
  func throughTheRingPage() throws {
    try exercise(DiskConfiguration(), mapping: .remap, guestStore: .ring)
  }

  @Test("two drivers share the guest's one ring page, and each hears of its own backend only")
  func sharedRingPage() throws {
    var machineConfiguration = MachineConfiguration()
    machineConfiguration.guestStore = .ring
    let machine = try Machine(machineConfiguration)
    let before = machine.ledger
    let first = try MemoryDisk(geometry: BlockGeometry(sectorCount: 2048))
    let second = try MemoryDisk(geometry: BlockGeometry(sectorCount: 4096))
    var configuration = DiskConfiguration()
    let one = try machine.attach(first, as: configuration)
    configuration.device = "xvdb"
    let two = try machine.attach(second, as: configuration)
    #expect(one.geometry.sectorCount == 2048)
    #expect(two.geometry.sectorCount == 4096)
    #expect(one.detach() == 0)
    #expect(two.frontend.handshakeState == .connected)
    #expect(two.detach() == 0)
    #expect(machine.ledger == before)
    #expect(machine.store.check() == [])
  }

  /// Random requests, many in flight, against a model, through a real file.
  @discardableResult
  func exercise(
    _ configuration: DiskConfiguration, mapping: MappingStrategy, rounds: Int = 600, seed: UInt64 = 7,
    guestStore: GuestStoreTransport = .direct
  ) throws -> AttachedDisk<RawImage> {
    let byteCount = 4 << 20
    let directory = try TemporaryImage(byteCount: byteCount)
    let image = try RawImage.open(path: directory.path, options: ImageOptions(access: .readWrite))
    var machineConfiguration = MachineConfiguration()
    machineConfiguration.mapping = mapping
    machineConfiguration.guestStore = guestStore
    let machine = try Machine(machineConfiguration)
    let before = machine.ledger
    let disk = try machine.attach(image, as: configuration)
    do {
      let queue = try disk.makeQueue(0, buffers: BufferDemand(count: 8, byteCount: 1 << 20))
      var driver = QueueDriver(queue)
      var model = DiskModel(
        bytes: Array(repeating: 0, count: byteCount), sectorSize: 512,
        operations: [.read, .write, .read, .write, .read, .write, .flush, .discard, .writeZeroes], seed: seed)
      var done = 0
      while done < rounds {
        while model.pending.count < 40 {
          guard let request = try model.nextRequest() else { break }
          guard case .accepted = driver.queue.submit(request) else {
            Issue.record("the queue is full with \(model.pending.count) requests, seed \(seed)")
            return disk
          }
        }
        guard let completion = driver.nextCompletion() else {
          Issue.record("no completion, seed \(seed)")
          return disk
        }
        if let complaint = model.finish(completion) {
          Issue.record("\(complaint), seed \(seed)")
          return disk
        }
        done += 1
      }
      while driver.queue.inFlight > 0, let completion = driver.nextCompletion() {
        #expect(model.finish(completion) == nil)
      }
      #expect(model.pending.isEmpty)
      #expect(try directory.contents() == model.bytes)
      _ = consume driver
    }
    #expect(disk.detach() == 0)
    #expect(machine.ledger == before)
    try image.close()
    return disk
  }
}

/// An image file that goes away with the object.
final class TemporaryImage {
  let path: String

  init(byteCount: Int) throws {
    path = "/tmp/pvdisk-test-\(getpid())-\(UInt32.random(in: 0 ... .max)).img"
    try RawImage.create(path: path, byteCount: UInt64(byteCount))
  }

  deinit { unsafe unlink(path) }

  func contents() throws -> [UInt8] {
    let descriptor = unsafe open(path, O_RDONLY)
    defer { close(descriptor) }
    var status = stat()
    unsafe fstat(descriptor, &status)
    var bytes = [UInt8](repeating: 0, count: status.st_size)
    let count = unsafe bytes.withUnsafeMutableBytes { unsafe pread(descriptor, $0.baseAddress, $0.count, 0) }
    try #require(count == bytes.count)
    return bytes
  }
}
