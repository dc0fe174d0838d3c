// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory
public import XenHypervisor
public import XenWire

/// The pages of one frontend queue: what its user reads into and writes from, and what it copies through.
///
/// ```
/// page  0 ............ buffers ............ | bounce | zero | descriptors (a few for each ring slot)
///       buffer 0 | buffer 1 | ...           |        |      |
/// ```
///
/// All of them are adjacent frames of the domain's memory, so that a request for a run of pages reaches the image as one
/// extent. With persistent grants every page has a reference of its own for life and stays granted; without, the
/// references belong to ring slots and come and go with requests.
///
/// **Assumptions.** One thread owns it. A page is part of one request at a time, except the zero pages.
@safe public struct FrontArena: ~Copyable {
  // SAFETY: `references` addresses `pageCount` initialised elements until deinit; page numbers are made from addresses that
  // were checked against the arena.
  @usableFromInline let pages: GuestPages
  @usableFromInline let references: UnsafeMutablePointer<GrantReference>
  @usableFromInline let baseAddress: UInt
  @usableFromInline let dataByteCount: UInt
  let demand: BufferDemand
  @usableFromInline let zeroPage: Int
  @usableFromInline let zeroCount: Int
  @usableFromInline let descriptorPage: Int
  @usableFromInline let bounceStack: UnsafeMutablePointer<Int32>
  @usableFromInline var bounceFree: Int

  /// Pages for bouncing data that lies elsewhere.
  public static let bouncePages = 512
  /// Zero pages, enough for a quarter of a MiB a request.
  public static let zeroPages = 64

  /// The pages that an arena takes.
  public static func pageCount(demand: BufferDemand, descriptorPages: Int) -> Int {
    demand.count * (demand.byteCount >> PageGeometry.pageShift) + bouncePages + zeroPages + descriptorPages
  }

  /// Takes pages that the platform handed out.
  public init(pages: GuestPages, demand: BufferDemand) {
    self.pages = pages
    self.demand = demand
    baseAddress = pages.region.address
    let bufferPages = demand.count * (demand.byteCount >> PageGeometry.pageShift)
    dataByteCount = UInt(bufferPages << PageGeometry.pageShift)
    unsafe references = .allocate(capacity: pages.count)
    unsafe references.initialize(repeating: .invalid, count: pages.count)
    unsafe bounceStack = .allocate(capacity: Self.bouncePages)
    for index in 0..<Self.bouncePages {
      unsafe (bounceStack + index).initialize(to: Int32(bufferPages + Self.bouncePages - 1 - index))
    }
    bounceFree = Self.bouncePages
    zeroPage = bufferPages + Self.bouncePages
    zeroCount = Self.zeroPages
    descriptorPage = zeroPage + Self.zeroPages
  }

  @inlinable
  deinit {
    unsafe references.deallocate()
    unsafe bounceStack.deallocate()
  }

  /// The memory of one of the user's buffers.
  @inlinable
  public func buffer(_ index: Int) -> MemoryExtent {
    precondition(index >= 0 && index < bufferCount, "no such buffer")
    return MemoryExtent(address: baseAddress &+ UInt(index &* bufferByteCount), byteCount: bufferByteCount)
  }

  /// The user's buffers.
  @inlinable public var bufferCount: Int { bufferByteCount == 0 ? 0 : Int(dataByteCount) / bufferByteCount }
  /// The pages of all buffers; they come first.
  @usableFromInline var userPageCount: Int { Int(dataByteCount) >> PageGeometry.pageShift }
  /// Bytes in each.
  public var bufferByteCount: Int { demand.byteCount }

  /// The page that an address lies in, if it is one that requests may name.
  @inlinable
  func page(at address: UInt) -> Int? {
    let offset = address &- baseAddress
    return offset < dataByteCount ? Int(offset >> UInt(PageGeometry.pageShift)) : nil
  }

  @inlinable
  func frame(_ page: Int) -> FrameNumber { FrameNumber(rawValue: pages.firstFrame.rawValue &+ UInt64(page)) }

  @inlinable
  func address(_ page: Int) -> UInt { baseAddress &+ UInt(page) << UInt(PageGeometry.pageShift) }

  @inlinable
  mutating func takeBounce() -> Int? {
    guard bounceFree > 0 else { return nil }
    bounceFree &-= 1
    return unsafe Int(bounceStack[bounceFree])
  }

  @inlinable
  mutating func giveBackBounce(_ page: Int) {
    unsafe bounceStack[bounceFree] = Int32(truncatingIfNeeded: page)
    bounceFree &+= 1
  }
}
