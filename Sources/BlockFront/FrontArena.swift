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
/// Behind the last of them the numbers go on with the buffers of a neighbour, if there is one: pages of another queue, which
/// this one may name in requests too.
///
/// All of its own are adjacent frames of the domain's memory, so that a request for a run of pages reaches the image as one
/// extent. With persistent grants every page has a reference of its own for life and stays granted; without, the
/// references belong to ring slots and come and go with requests.
///
/// **Assumptions.** One thread owns it. A page is part of one request at a time, except the zero pages.
@safe public struct FrontArena: ~Copyable {
  // SAFETY: `references` addresses `pageCount` initialised elements until deinit; page numbers are made from addresses that
  // were checked against the arena and its annex.
  @usableFromInline let pages: GuestPages
  @usableFromInline var references: UnsafeMutablePointer<GrantReference>
  /// A neighbour's buffers; no bytes when there is none.
  @usableFromInline var annexAddress: UInt = 0
  @usableFromInline var annexByteCount: UInt = 0
  @usableFromInline var annexFrame: UInt64 = 0
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
    if offset < dataByteCount { return Int(offset >> UInt(PageGeometry.pageShift)) }
    let beyond = address &- annexAddress
    return beyond < annexByteCount ? pages.count &+ Int(beyond >> UInt(PageGeometry.pageShift)) : nil
  }

  @inlinable
  func frame(_ page: Int) -> FrameNumber {
    guard page >= pages.count else { return FrameNumber(rawValue: pages.firstFrame.rawValue &+ UInt64(page)) }
    return FrameNumber(rawValue: annexFrame &+ UInt64(page &- pages.count))
  }

  @inlinable
  func address(_ page: Int) -> UInt {
    guard page >= pages.count else { return baseAddress &+ UInt(page) << UInt(PageGeometry.pageShift) }
    return annexAddress &+ UInt(page &- pages.count) << UInt(PageGeometry.pageShift)
  }

  /// Pages that requests may name, the neighbour's too.
  var pageCount: Int { pages.count + Int(annexByteCount) >> PageGeometry.pageShift }

  /// Numbers the pages of a neighbour behind its own; their references are still to be set.
  mutating func attach(_ extent: MemoryExtent, firstFrame: FrameNumber) {
    precondition(annexByteCount == 0, "a queue has one neighbour")
    let longer = UnsafeMutablePointer<GrantReference>.allocate(
      capacity: pages.count + extent.byteCount >> PageGeometry.pageShift)
    unsafe longer.initialize(
      repeating: .invalid, count: pages.count + extent.byteCount >> PageGeometry.pageShift)
    unsafe longer.update(from: references, count: pages.count)
    unsafe references.deallocate()
    unsafe references = longer
    annexAddress = extent.address
    annexByteCount = UInt(extent.byteCount)
    annexFrame = firstFrame.rawValue
  }

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
