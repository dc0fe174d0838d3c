// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory

/// A disk with a volatile cache that keeps one number for each sector: a sector is that number, 64 times.
///
/// Requests finish when the world says so, in any order, or fail; a power cut leaves of each sector that was written since
/// the last flush any version, each by itself.
public final class SimulatedDisk: BlockDevice, @unchecked Sendable {
  // SAFETY: used by the one thread that runs the world.
  struct Job {
    let request: IORequest
  }

  let chance: Chance
  /// What a read finds.
  var current: [UInt64]
  /// What is left for certain when the power goes.
  private var durable: [UInt64]
  /// What else may be left: versions since the last flush.
  private var versions: [[UInt64]]
  private var dirty: [Int] = []
  var pending: [Job] = []
  var finished: [IOCompletion] = []
  /// Whether something has finished that the backend has not collected.
  var hasNews = false
  /// Sentences about what no request may be.
  var complaints: [String] = []
  /// The size and abilities.
  public let geometry: BlockGeometry

  init(sectorCount: Int, chance: Chance) {
    self.chance = chance
    current = Array(repeating: 0, count: sectorCount)
    durable = current
    versions = Array(repeating: [], count: sectorCount)
    geometry = BlockGeometry(sectorCount: UInt64(sectorCount), discard: DiscardAbility(leavesZeros: true))
  }

  /// One at a time.
  public var queueCount: Int { 1 }

  /// Makes the queue.
  public func makeQueue(_ index: Int, buffers: BufferDemand) throws(BlockError) -> SimulatedDiskQueue {
    SimulatedDiskQueue(disk: self, capacity: max(64, buffers.count))
  }

  // MARK: What the world does

  /// Finishes one of the requests.
  func finishOne() {
    guard !pending.isEmpty else { return }
    let place = chance.below(pending.count)
    let job = pending[place]
    pending[place] = pending[pending.count - 1]
    pending.removeLast()
    finished.append(IOCompletion(tag: job.request.tag, errorCode: execute(job.request)))
    hasNews = true
  }

  /// The process that used the disk has died: what it had asked for was done, or was not.
  func abandon() {
    for job in pending where chance.oneIn(2) { _ = execute(job.request) }
    pending = []
    finished = []
    hasNews = false
  }

  /// The power goes: each sector keeps one of its versions.
  func cutPower() {
    for sector in dirty {
      let choice = chance.below(versions[sector].count + 1)
      durable[sector] = choice == 0 ? durable[sector] : versions[sector][choice - 1]
      current[sector] = durable[sector]
      versions[sector] = []
    }
    dirty = []
  }

  // MARK: Requests

  private func execute(_ request: IORequest) -> CInt {
    let start = Int(request.sectors.start), count = Int(request.sectors.count)
    if request.operation == .flush { return flush() }
    guard request.sectors.fits(in: geometry.sectorCount), count > 0 else {
      complaints.append("\(request.operation) of \(request.sectors)")
      return 22
    }
    let fails = chance.strikes(.disk)
    // A failing write or discard may have got some of the way.
    let done = fails ? chance.below(count + 1) : count
    switch request.operation {
    case .read: if !fails { move(request, start, done) { sector, memory in fill(memory, with: current[sector]) } }
    case .write: move(request, start, done) { sector, memory in write(stamp(of: memory), to: sector) }
    case .discard, .secureDiscard, .writeZeroes: for sector in start..<start + done { write(0, to: sector) }
    case .flush: break
    }
    return fails ? (request.operation == .write && chance.oneIn(2) ? 28 : 5) : 0
  }

  private func flush() -> CInt {
    if chance.strikes(.disk) { return 5 }
    let lies = chance.sabotages(.flushLies, oneIn: 4)
    var left: [Int] = []
    for sector in dirty {
      if lies, chance.oneIn(2) {
        left.append(sector)
      } else {
        durable[sector] = current[sector]
        versions[sector] = []
      }
    }
    dirty = left
    return 0
  }

  private func write(_ stamp: UInt64, to sector: Int) {
    current[sector] = stamp
    if versions[sector].isEmpty { dirty.append(sector) }
    versions[sector].append(stamp)
  }

  private func move(_ request: IORequest, _ start: Int, _ count: Int, _ body: (Int, SharedRegion) -> Void) {
    guard let memory = request.memory, memory.byteCount == Int(request.sectors.byteCount) else {
      complaints.append("\(request.operation) of \(request.sectors) with other memory")
      return
    }
    let isShort = request.operation == .write && chance.sabotages(.writesFallShort, oneIn: 20)
    var sector = start
    for index in 0..<memory.count {
      guard let region = memory[index].region, region.byteCount % 512 == 0 else {
        complaints.append("a piece of \(memory[index].byteCount) bytes")
        return
      }
      for offset in stride(from: 0, to: region.byteCount, by: 512) where sector < start + count - (isShort ? 1 : 0) {
        body(sector, region.slice(at: offset, byteCount: 512))
        sector += 1
      }
    }
  }

  private func stamp(of memory: SharedRegion) -> UInt64 {
    if chance.sabotages(.sectorsTear, oneIn: 50) { return 0xDEAD }
    let stamp = Self.stamp(of: memory)
    if stamp == nil { complaints.append("a torn sector came down") }
    return stamp ?? 0xDEAD
  }

  /// The number that a sector of memory is made of; nil when it is not one.
  static func stamp(of memory: SharedRegion) -> UInt64? {
    unsafe memory.withUnsafeBytes { bytes -> UInt64? in
      let first = unsafe bytes.loadUnaligned(as: UInt64.self)
      var different: UInt64 = 0
      for offset in stride(from: 8, to: 512, by: 8) {
        unsafe different |= bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self) ^ first
      }
      return different == 0 ? first : nil
    }
  }

  /// Makes a sector of memory of a number.
  static func fill(_ memory: SharedRegion, with stamp: UInt64) {
    unsafe memory.withUnsafeBytes { bytes in
      for offset in stride(from: 0, to: 512, by: 8) {
        unsafe bytes.storeBytes(of: stamp, toByteOffset: offset, as: UInt64.self)
      }
    }
  }

  private func fill(_ memory: SharedRegion, with stamp: UInt64) { Self.fill(memory, with: stamp) }
}

/// The queue of a ``SimulatedDisk``.
public struct SimulatedDiskQueue: BlockQueue, ~Copyable {
  private let disk: SimulatedDisk
  /// The most requests in flight.
  public let capacity: Int

  init(disk: SimulatedDisk, capacity: Int) {
    self.disk = disk
    self.capacity = capacity
  }

  deinit { disk.abandon() }

  /// Requests not handed back.
  public var inFlight: Int { disk.pending.count + disk.finished.count }
  /// The world knows when something has finished.
  public var waitDescriptor: CInt { -1 }
  /// There are no buffers.
  public func buffer(_ index: Int) -> MemoryExtent { preconditionFailure("a simulated disk has no buffers") }
  /// Takes a request.
  public mutating func submit(_ request: IORequest) -> SubmitOutcome {
    guard inFlight < capacity else { return .full }
    disk.pending.append(SimulatedDisk.Job(request: request))
    return .accepted
  }
  /// Does nothing: the world finishes requests.
  public mutating func advance() { disk.hasNews = false }
  /// Hands back a finished request.
  public mutating func nextCompletion() -> IOCompletion? { disk.finished.popLast() }
  /// There is work when something has finished.
  public mutating func prepareToWait() -> WaitReadiness { disk.finished.isEmpty ? .maySleep : .workPending }
}
