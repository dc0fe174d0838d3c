// SPDX-License-Identifier: MIT

public import BlockIO
import Glibc
public import GuestMemory
import Synchronization

/// A disk in plain memory, for tests: real bytes, any geometry, and on request late, reordered or failing completions.
///
/// A page that holds only zeros counts as a hole.
public final class MemoryDisk: BlockDevice, @unchecked Sendable {
  // SAFETY: the bytes are moved by memcpy through bounds-checked regions; requests that overlap in time may mix, as on
  // a disk.
  private let memory: MappedMemory
  private let size: Atomic<UInt64>
  private let shape: BlockGeometry
  /// How it treats requests.
  public let behaviour: Behaviour
  private let counts: Mutex<Counts>

  /// What it has been asked to do.
  public struct Counts: Equatable, Sendable {
    /// Flushes done.
    public var flushes = 0
    /// Discards done.
    public var discards = 0
    /// Zeroing requests, done or refused.
    public var zeroings = 0
    /// Requests that did not suit the geometry or the memory given: none, or the user is wrong.
    public var violations = 0
  }

  /// What it has been asked to do so far.
  public var requestCounts: Counts { counts.withLock { $0 } }

  /// What a disk does beside moving bytes.
  public struct Behaviour: Sendable {
    /// The queues that it offers.
    public var queueCount = 4
    /// Requests that a queue holds.
    public var capacity = 32
    /// When set, requests finish in a random order after random waits; otherwise inside `advance`.
    public var asynchronySeed: UInt64?
    /// Sectors that no read or write may touch without failing with `EIO`.
    public var badSectors: Range<UInt64> = 0..<0
    /// What a flush answers.
    public var flushError: CInt = 0
    /// Whether it writes zeros by itself; otherwise `EOPNOTSUPP`.
    public var writesZeroes = true
    /// What `makeQueue` throws from this index on.
    public var firstRefusedQueue = Int.max

    /// The plain disk.
    public init() {}
  }

  /// Makes a disk of zeros; `capacity` leaves room for it to grow.
  public init(geometry: BlockGeometry, behaviour: Behaviour = Behaviour(), growsTo capacity: UInt64? = nil) throws {
    memory = try MappedMemory(anonymousByteCount: Int(max(geometry.byteCount, capacity ?? 0)))
    size = Atomic(geometry.sectorCount)
    shape = geometry
    counts = Mutex(Counts())
    self.behaviour = behaviour
  }

  /// The size and the abilities, as they are now.
  public var geometry: BlockGeometry {
    var now = shape
    now.sectorCount = size.load(ordering: .acquiring)
    return now
  }

  /// The queues that may be made.
  public var queueCount: Int { behaviour.queueCount }

  /// The bytes, for a test that looks behind the user's back.
  public var contents: SharedRegion { memory.region }

  /// Makes the disk larger; there must be room.
  public func grow(toSectorCount sectorCount: UInt64) {
    precondition(Int(sectorCount) * PageGeometry.sectorSize <= memory.byteCount, "no room to grow")
    size.store(sectorCount, ordering: .releasing)
  }

  /// Makes a queue with its buffers.
  public func makeQueue(_ index: Int, buffers: BufferDemand) throws(BlockError) -> MemoryDiskQueue {
    guard index < behaviour.firstRefusedQueue else { throw .disconnected("queue \(index) was told to fail") }
    do {
      return try MemoryDiskQueue(disk: self, index: index, buffers: buffers)
    } catch {
      throw .system(call: "\(error.call)", path: "memory disk", code: error.code)
    }
  }

  /// The first page at or after `offset` that holds something.
  public func nextData(from offset: UInt64) -> UInt64? { scan(from: offset, forData: true) }
  /// The first page at or after `offset` that holds nothing.
  public func nextHole(from offset: UInt64) -> UInt64 { scan(from: offset, forData: false) ?? geometry.byteCount }

  private func scan(from offset: UInt64, forData: Bool) -> UInt64? {
    let end = geometry.byteCount
    var position = offset
    while position < end {
      let page = position & ~4095
      if holdsData(at: page, until: min(page + 4096, end)) == forData { return position }
      position = page + 4096
    }
    return nil
  }

  private func holdsData(at start: UInt64, until end: UInt64) -> Bool {
    let page = contents.slice(at: Int(start), byteCount: Int(end - start))
    return unsafe page.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress, unsafe bytes[0] == 0 else { return true }
      // SAFETY: both lie within the page; bytes that equal their neighbours equal the first, which is zero.
      return unsafe memcmp(base, base + 1, bytes.count - 1) != 0
    }
  }

  /// Carries out a request: 0 or an `errno`.
  func execute(_ request: IORequest) -> CInt {
    if request.operation == .flush {
      counts.withLock { $0.flushes += 1 }
      return behaviour.flushError
    }
    let mask = UInt64(shape.logicalSectorSize / PageGeometry.sectorSize - 1)
    guard request.sectors.fits(in: geometry.sectorCount), request.sectors.count > 0,
      (request.sectors.start | request.sectors.count) & mask == 0
    else { return violation() }
    let bad = behaviour.badSectors
    if request.sectors.start < bad.upperBound && request.sectors.start + request.sectors.count > bad.lowerBound {
      return EIO
    }
    let region = contents.slice(at: Int(request.sectors.byteOffset), byteCount: Int(request.sectors.byteCount))
    switch request.operation {
    case .read, .write: return move(request, region)
    case .writeZeroes:
      counts.withLock { $0.zeroings += 1 }
      guard behaviour.writesZeroes else { return EOPNOTSUPP }
      region.fill(0)
    case .discard, .secureDiscard:
      guard let ability = shape.discard else { return EOPNOTSUPP }
      counts.withLock { $0.discards += 1 }
      region.fill(ability.leavesZeros ? 0 : 0xDD)
    case .flush: break
    }
    return 0
  }

  private func move(_ request: IORequest, _ region: SharedRegion) -> CInt {
    guard !shape.isReadOnly || request.operation == .read else { return EROFS }
    guard let list = request.memory, list.byteCount == region.byteCount else { return violation() }
    var offset = 0
    for index in 0..<list.count {
      let extent = list[index]
      guard let part = extent.region, extent.address % 512 == 0 else { return violation() }
      let disk = region.slice(at: offset, byteCount: extent.byteCount)
      unsafe disk.withUnsafeBytes { disk in
        unsafe part.withUnsafeBytes { memory in
          // SAFETY: both are checked and equally long.
          if request.operation == .read {
            unsafe memory.copyMemory(from: UnsafeRawBufferPointer(disk))
          } else {
            unsafe disk.copyMemory(from: UnsafeRawBufferPointer(memory))
          }
        }
      }
      offset += extent.byteCount
    }
    return 0
  }

  private func violation() -> CInt {
    counts.withLock { $0.violations += 1 }
    return EINVAL
  }
}
