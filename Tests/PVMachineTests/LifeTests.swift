// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import Glibc
import GuestMemory
import PVMachine
import PVTestSupport
import Synchronization
import Testing
import XenBus
import XenHypervisor
import XenStore
import XenWire

@Suite("A disk's life under random I/O")
struct LifeTests {
  static let byteCount = 2 << 20

  static func configuration(_ placement: Placement) -> DiskConfiguration {
    var configuration = DiskConfiguration()
    configuration.ringPages = 4
    configuration.placement = placement
    configuration.spinNanoseconds = 0
    return configuration
  }

  @Test(
    "a backend is replaced in mid-I/O and nothing is lost, whatever the next one offers", arguments: Destination.all)
  func replacement(destination: Destination) throws {
    for placement in Placement.allCases {
      let image = try lateDisk(byteCount: Self.byteCount, seed: 11)
      let machine = try Machine()
      let before = machine.ledger
      let disk = try machine.attach(image, as: Self.configuration(placement))
      do {
        var user = try RandomUser(disk, byteCount: Self.byteCount, seed: 5)
        for round in 0..<3 {
          try #require(try user.run(40))
          try user.fill(24)
          disk.replaceBackend(with: round % 2 == 0 ? destination.knobs : nil)
        }
        try #require(try user.run(50))
        try #require(disk.wait(for: .connected, with: destination.knobs, driving: &user))
        try #require(try user.drain())
        let isRight = image.bytes == user.model.bytes
        #expect(isRight)
      }
      #expect(disk.detach() == 0)
      #expect(machine.ledger == before)
    }
  }

  @Test("requests that wait for a backend are cut to what it takes")
  func resplitting() throws {
    let image = try lateDisk(byteCount: Self.byteCount, seed: 3)
    let machine = try Machine()
    let disk = try machine.attach(image, as: Self.configuration(.inline))
    do {
      let queue = try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 1 << 20))
      var driver = QueueDriver(queue)
      let memory = try ScatteredMemory(byteCount: 1 << 20)
      var random = SeededGenerator(seed: 9)
      memory.bytes = random.bytes(1 << 20)
      let isSuspended = Atomic(false)
      disk.suspend { isSuspended.store(true, ordering: .releasing) }
      while !isSuspended.load(ordering: .acquiring) { driver.queue.advance() }
      guard case .accepted = driver.queue.submit(.at(0, 1 << 20, .write, memory)) else {
        Issue.record("not accepted")
        return
      }
      driver.queue.advance()
      #expect(driver.queue.nextCompletion() == nil && driver.queue.inFlight == 1)
      let requests = disk.counters[0].front[1]
      var knobs = BackendKnobs()
      knobs.maxIndirectSegments = 0
      disk.resume(with: knobs)
      #expect(driver.nextCompletion()?.errorCode == 0)
      #expect(disk.counters[0].front[1] - requests == 24, "256 pages by eleven")
      let isRight = Array(image.bytes.prefix(1 << 20)) == memory.bytes
      #expect(isRight)
    }
    #expect(disk.detach() == 0)
  }

  @Test("a backend that comes back with fewer queues carries the I/O of all", arguments: Placement.allCases)
  func fewerQueues(placement: Placement) throws {
    let part = 1 << 20
    let image = try lateDisk(byteCount: 4 * part, seed: 21)
    let machine = try Machine()
    let before = machine.ledger
    var configuration = Self.configuration(placement)
    configuration.queues = 4
    let disk = try machine.attach(image, as: configuration)
    #expect(disk.queueCount == 4)
    let progress = (0..<4).map { _ in Progress() }
    let isOver = Progress()
    let threads = (0..<4).map { index in
      PeerThread {
        do {
          var user = try RandomUser(
            disk, queue: index, base: index * part, byteCount: part, seed: UInt64(100 + index))
          while isOver.value == 0, try user.run(5) { progress[index].add(5) }
          #expect(try user.drain())
          let isRight = Array(image.bytes[index * part..<(index + 1) * part]) == user.model.bytes
          #expect(isRight)
        } catch { Issue.record(error) }
        progress[index].add(1 << 40)
      }
    }
    /// Waits until every user has got further, or is over.
    func waitForProgress() {
      let starts = progress.map(\.value)
      let deadline = time(nil) + 60
      while zip(progress, starts).contains(where: { $0.value < $1 + 60 }), time(nil) < deadline { usleep(500) }
      #expect(time(nil) < deadline, "somebody's I/O does not move")
    }
    waitForProgress()
    for queues in [1, 4, 2, 3, 1] {
      var knobs = BackendKnobs()
      knobs.maxQueues = queues
      disk.replaceBackend(with: knobs)
      let deadline = time(nil) + 60
      while disk.phase != .connected || disk.queueCount != queues, time(nil) < deadline { usleep(500) }
      #expect(disk.queueCount == queues)
      // What the connection before left to be carried is carried in between.
      waitForProgress()
      let visits = disk.visits
      waitForProgress()
      #expect((disk.visits > visits) == (queues < 4), "\(queues) queues")
    }
    disk.replaceBackend()
    isOver.add(1)
    for thread in threads { thread.join() }
    #expect(disk.detach() == 0)
    #expect(machine.ledger == before)
  }

  @Test("a frontend that closes fails its I/O, and works again when it has come back", arguments: Placement.allCases)
  func closeAndReopen(placement: Placement) throws {
    let image = try lateDisk(byteCount: Self.byteCount, seed: 4)
    let machine = try Machine()
    let before = machine.ledger
    let disk = try machine.attach(image, as: Self.configuration(placement))
    do {
      var user = try RandomUser(disk, byteCount: Self.byteCount, seed: 6)
      for _ in 0..<3 {
        try #require(try user.run(40))
        try #require(try user.drain())
        disk.closeFrontend()
        try #require(disk.wait(for: .gone, driving: &user))
        #expect(disk.frontend.handshakeState == .closed)
        try user.fill(8)
        let held = user.model.bytes
        #expect(user.drainErrors().contains(EIO))
        _ = held
        user.model.bytes = image.bytes
        disk.reopen()
        try #require(disk.wait(for: .connected, driving: &user))
        #expect(disk.backend.handshakeState == .connected)
      }
      try #require(try user.run(40))
      try #require(try user.drain())
      let isRight = image.bytes == user.model.bytes
      #expect(isRight)
    }
    #expect(disk.detach() == 0)
    #expect(machine.ledger == before)
  }

  /// Ways in which a disk can vanish without a word to its user.
  enum Removal: String, CaseIterable {
    case backendCloses, backendCloseAndOffline, frontendFolderGoes
  }

  @Test("a disk that is taken away by surprise fails what is in flight and all that comes", arguments: Removal.allCases)
  func surprise(removal: Removal) throws {
    for placement in Placement.allCases {
      let image = try lateDisk(byteCount: Self.byteCount, seed: 8)
      let machine = try Machine()
      let before = machine.ledger
      let disk = try machine.attach(image, as: Self.configuration(placement))
      do {
        var user = try RandomUser(disk, byteCount: Self.byteCount, seed: 12)
        try #require(try user.run(40))
        try user.fill(20)
        user.driver.queue.advance()
        switch removal {
        case .backendCloses: try machine.toolstack.write(disk.definition.backendPath / "state", "6")
        case .backendCloseAndOffline: try disk.definition.startDetach(in: machine.toolstack)
        case .frontendFolderGoes: try machine.toolstack.remove(disk.definition.frontendPath)
        }
        try #require(disk.wait(for: .gone, driving: &user))
        let codes = user.drainErrors()
        #expect(codes.isSubset(of: [0, EIO]))
        try user.fill(4)
        #expect(user.drainErrors() == [EIO])
      }
      #expect(disk.detach() == 0)
      #expect(machine.ledger == before)
    }
  }

  @Test("a disk grows under I/O: the frontend learns it, the new sectors are there", arguments: Placement.allCases)
  func resize(placement: Placement) throws {
    let full = 2 * Self.byteCount
    let image = try MemoryDisk(
      geometry: BlockGeometry(sectorCount: UInt64(Self.byteCount / 512)), growsTo: UInt64(full))
    let machine = try Machine()
    let disk = try machine.attach(image, as: Self.configuration(placement))
    do {
      var user = try RandomUser(disk, byteCount: Self.byteCount, seed: 2, operations: [.read, .write])
      try #require(try user.run(50))
      let memory = try ScatteredMemory(byteCount: 4096)
      #expect(user.driver.queue.inFlight > 0)
      try #require(try user.drain())
      #expect(user.driver.run(at: Self.byteCount, 4096, .read, memory) != 0, "not there yet")
      #expect(try !disk.announceCapacity(), "nothing to tell")
      image.grow(toSectorCount: UInt64(full / 512))
      try user.fill(16)
      let seen = Atomic<Int>(0)
      disk.onResize { seen.add(1, ordering: .relaxed) }
      let answer = Mutex<Bool?>(nil)
      let teller = PeerThread {
        let isTold = (try? disk.announceCapacity()) ?? false
        answer.withLock { $0 = isTold }
      }
      teller.join()
      #expect(answer.withLock { $0 } == true)
      let deadline = time(nil) + 60
      while seen.load(ordering: .relaxed) == 0, time(nil) < deadline { usleep(100) }
      #expect(disk.geometry.byteCount == UInt64(full))
      try #require(try user.drain())
      memory.bytes = Array(repeating: 0x5A, count: 4096)
      #expect(user.driver.run(at: full - 4096, 4096, .write, memory) == 0)
      #expect(image.bytes.suffix(4096).allSatisfy { $0 == 0x5A })
      try #require(try user.run(20))
      try #require(try user.drain())
    }
    #expect(disk.detach() == 0)
  }
}

/// A number that threads tell each other.
final class Progress: Sendable {
  private let count = Atomic<Int>(0)
  var value: Int { count.load(ordering: .acquiring) }
  func add(_ amount: Int) { count.add(amount, ordering: .releasing) }
}

extension AttachedDisk {
  /// I/Os of queues without a ring that others have carried.
  var visits: UInt64 { counters.reduce(0) { $0 + $1.front[FrontCounter.visits.rawValue] } }
}

extension MemoryDisk {
  /// The whole disk.
  var bytes: [UInt8] {
    contents.withUnsafeBytesCopied(count: Int(geometry.byteCount))
  }
}

extension SharedRegion {
  func withUnsafeBytesCopied(count: Int) -> [UInt8] {
    unsafe withUnsafeBytes { unsafe Array($0.prefix(count)) }
  }
}
