// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import Glibc
import PVMachine
import PVTestSupport
import Synchronization
import Testing
import XenBus
import XenHypervisor
import XenStore
import XenWire

/// What is wrong, when a storm is to stop at it.
struct StormDamage: Error, CustomStringConvertible {
  var description: String
}

/// One attached disk, to which all kinds of things happen while its users' requests are in flight.
///
/// Each of its one or two users has an oracle. All of it hangs on the seed but the threads' pace.
struct LifeStorm: ~Copyable {
  typealias User = RandomUser<AttachedDisk<MemoryDisk>>

  static let byteCount = 256 << 10
  static let growth = 16 << 10
  static let mostGrowths = 64

  /// What can happen to a disk that is connected.
  enum Event: String, CaseIterable {
    case replacement, suspension, growth, growthInBetween, close, unbind, haste
  }

  /// In which ways a disk goes.
  enum Departure: String, CaseIterable {
    case detach, backendCloses, backendCloseAndOffline, frontendFolderGoes
  }

  let machine: Machine
  let image: MemoryDisk
  let disk: AttachedDisk<MemoryDisk>
  private var first: User
  private var second: User?
  private var random: SeededGenerator
  /// Of the backend that was asked for last.
  private var knobs: BackendKnobs
  private var backends = 0

  init(_ machine: Machine, seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    var behaviour = MemoryDisk.Behaviour()
    behaviour.asynchronySeed = random.next()
    behaviour.capacity = 1024
    let image = try MemoryDisk(
      geometry: BlockGeometry(
        sectorCount: UInt64(Self.byteCount / 512), discard: DiscardAbility(granularity: 512, leavesZeros: true)),
      behaviour: behaviour, growsTo: UInt64(Self.byteCount + Self.mostGrowths * Self.growth))
    let disk = try machine.attach(image, as: Self.configuration(&random))
    let half = disk.queueCount > 1 ? Self.byteCount / 2 : Self.byteCount
    let first = try User(disk, byteCount: half, seed: random.next())
    let second: User? =
      disk.queueCount > 1
      ? try User(disk, queue: 1, base: half, byteCount: Self.byteCount - half, seed: random.next()) : nil
    (self.machine, self.image, self.disk, self.random) = (machine, image, disk, random)
    knobs = disk.backend.knobs
    self.first = first
    self.second = second
  }

  private static func configuration(_ random: inout SeededGenerator) -> DiskConfiguration {
    var configuration = DiskConfiguration()
    configuration.queues = Int.random(in: 1...2, using: &random)
    configuration.ringPages = [1, 2, 4].randomElement(using: &random) ?? 1
    configuration.indirectSegments = [0, 32, 256].randomElement(using: &random) ?? 0
    configuration.placement = Placement.allCases.randomElement(using: &random) ?? .inline
    configuration.frontPersistent = Bool.random(using: &random)
    configuration.backPersistent = Bool.random(using: &random)
    configuration.isBackendTrusted = Int.random(in: 0..<4, using: &random) > 0
    configuration.spinNanoseconds = 0
    return configuration
  }

  // MARK: The users

  /// Puts requests in flight.
  private mutating func fill() throws {
    try first.fill(Int.random(in: 1...24, using: &random))
    try second?.fill(Int.random(in: 1...24, using: &random))
    advance()
  }

  private mutating func advance() {
    first.driver.queue.advance()
    second?.driver.queue.advance()
    _ = first.driver.queue.prepareToWait()
    _ = second?.driver.queue.prepareToWait()
  }

  /// Takes what has finished: all of it must have come out right, or have been lost with the disk.
  private mutating func take(_ judge: (inout User, IOCompletion) -> String?) throws -> Int {
    var count = 0
    while let completion = first.driver.queue.nextCompletion() {
      count += 1
      if let complaint = judge(&first, completion) { throw StormDamage(description: complaint) }
    }
    while let completion = second?.driver.queue.nextCompletion() {
      count += 1
      guard var user = second.take() else { continue }
      let complaint = judge(&user, completion)
      second = consume user
      if let complaint { throw StormDamage(description: complaint) }
    }
    return count
  }

  private var waiting: Int {
    let others =
      switch second {
      case .some(let user): user.model.pending.count
      case .none: 0
      }
    return first.model.pending.count + others
  }

  /// Lets so many requests come out right.
  private mutating func use(_ count: Int) throws {
    var left = count
    try fill()
    let deadline = time(nil) + 60
    while left > 0 {
      advance()
      let taken = try take { $0.model.finish($1) }
      left -= taken
      if waiting == 0 { try fill() }
      if taken == 0 { usleep(50) }
      guard time(nil) < deadline else { throw StormDamage(description: "\(waiting) requests are not answered") }
    }
  }

  /// Drives both queues, as one may carry the other's requests, until the disk is in some state.
  private mutating func wait(_ what: String, until isSo: (AttachedDisk<MemoryDisk>) -> Bool) throws {
    let deadline = time(nil) + 60
    while !isSo(disk) {
      advance()
      guard time(nil) < deadline else {
        throw StormDamage(description: "not \(what): the disk is \(disk.phase), \(String(describing: disk.failure))")
      }
      usleep(50)
    }
    advance()
  }

  /// Takes what the disk's going ended: each request was answered, or failed with `EIO` and left its sectors whole.
  private mutating func judgeLosses(mayBeDone: Bool) throws {
    let found = image.bytes
    let deadline = time(nil) + 60
    while waiting > 0 {
      advance()
      let taken = try take { $0.judgeLoss($1, found: found, mayBeDone: mayBeDone) }
      if taken == 0 { usleep(50) }
      guard time(nil) < deadline else {
        throw StormDamage(description: "\(waiting) requests wait for a disk that is gone")
      }
    }
  }

  /// The settings of the next backend, by which it can be told from all before.
  private mutating func nextKnobs() -> BackendKnobs {
    var knobs = Destination.all.randomElement(using: &random)?.knobs ?? BackendKnobs()
    backends += 1
    knobs.maxPersistentGrants += backends
    self.knobs = knobs
    return knobs
  }

  // MARK: Events

  mutating func meet(_ event: Event) throws {
    try use(Int.random(in: 1...8, using: &random))
    try fill()
    switch event {
    case .replacement: disk.replaceBackend(with: nextKnobs())
    case .suspension:
      disk.suspend()
      try wait("suspended") { $0.phase == .suspended }
      try fill()
      disk.resume(with: nextKnobs())
    case .growth: try grow()
    case .growthInBetween:
      disk.replaceBackend(with: nextKnobs())
      try grow()
    case .close, .unbind:
      if event == .close { disk.closeFrontend() } else { disk.unbindFrontend() }
      try wait("gone") { $0.phase == .gone }
      try judgeLosses(mayBeDone: true)
      try fill()
      try judgeLosses(mayBeDone: false)
      disk.reopen()
    case .haste:
      for _ in 0..<3 { disk.replaceBackend(with: nextKnobs()) }
    }
    // A change that was asked for may not have begun: the backend shows that it is over.
    let knobs = knobs
    try wait("connected after \(event)") { $0.phase == .connected && $0.backend.knobs == knobs }
    let size = image.geometry.byteCount
    try wait("as large as the image after \(event)") { $0.geometry.byteCount == size }
    try use(2)
  }

  private mutating func grow() throws {
    let now = Int(image.geometry.byteCount)
    guard now < Self.byteCount + Self.mostGrowths * Self.growth else { return }
    image.grow(toSectorCount: UInt64(now + Self.growth) / 512)
    try disk.announceCapacity()
    let zeros = repeatElement(UInt8(0), count: Self.growth)
    if second != nil { second?.model.bytes += zeros } else { first.model.bytes += zeros }
  }

  // MARK: The end

  /// Has the disk go, with requests in flight; then the image must hold what the users know of it.
  consuming func end(_ departure: Departure) throws {
    try fill()
    if departure != .detach {
      switch departure {
      case .backendCloses: try machine.toolstack.write(disk.definition.backendPath / "state", "6")
      case .backendCloseAndOffline: try disk.definition.startDetach(in: machine.toolstack)
      default: try machine.toolstack.remove(disk.definition.frontendPath)
      }
      try wait("gone by \(departure)") { $0.phase == .gone }
      try judgeLosses(mayBeDone: true)
      try fill()
      try judgeLosses(mayBeDone: false)
    }
    let (disk, image) = (disk, image)
    // The queues go with whatever is in flight; its memory stays with the models.
    var models = [first.model]
    if let other = second?.model { models.append(other) }
    _ = consume self
    guard disk.detach() == 0 else { throw StormDamage(description: "pages are stuck") }
    let found = image.bytes
    var base = 0
    for place in models.indices {
      let part = Array(found[base..<base + models[place].bytes.count])
      base += part.count
      for tag in Array(models[place].pending.keys) {
        if let complaint = models[place].lose(tag, found: part, mayBeDone: true) {
          throw StormDamage(description: complaint)
        }
      }
      guard part == models[place].bytes else { throw StormDamage(description: "the image differs after \(departure)") }
    }
  }
}

extension RandomUser {
  /// Takes back a request to a disk that is gone: nil, or a sentence about what is wrong.
  mutating func judgeLoss(_ completion: IOCompletion, found image: [UInt8], mayBeDone: Bool) -> String? {
    switch completion.errorCode {
    case 0 where mayBeDone: return model.finish(completion)
    case EIO:
      let part = Array(image[base..<base + model.bytes.count])
      return model.lose(completion.tag, found: part, mayBeDone: mayBeDone)
    default: return "a request on a disk that is gone ended with \(completion.errorCode)"
    }
  }
}
