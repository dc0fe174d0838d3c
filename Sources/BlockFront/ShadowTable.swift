// SPDX-License-Identifier: MIT

public import XenWire

/// Where a slot id stands.
@usableFromInline
enum ShadowState: UInt8, BitwiseCopyable {
  case free
  /// In the ring, or answered and not looked at yet.
  case waiting
}

/// What the frontend remembers of a request that is in the ring (blkfront's `struct blk_shadow`): enough to judge the
/// response without ever looking at the slot again.
@usableFromInline
struct Shadow: BitwiseCopyable {
  @usableFromInline var io: Int32
  @usableFromInline var nextFree: Int32
  @usableFromInline var segmentCount: Int32
  /// The opcode that the response must carry: the inner one of an indirect request.
  @usableFromInline var operation: BlockOperation
  @usableFromInline var state: ShadowState
  @usableFromInline var isIndirect: Bool
  @usableFromInline var hasBounced: Bool

  @inlinable
  init(io: Int32, nextFree: Int32, segmentCount: Int32, operation: BlockOperation, state: ShadowState) {
    self.io = io
    self.nextFree = nextFree
    self.segmentCount = segmentCount
    self.operation = operation
    self.state = state
    isIndirect = false
    hasBounced = false
  }
}

/// One piece of a request: a page, its sectors, and for a bounced one where the data really belongs.
@usableFromInline
struct Piece: BitwiseCopyable {
  @usableFromInline var page: Int32
  @usableFromInline var firstSector: UInt8
  @usableFromInline var lastSector: UInt8
  /// 0, or the address that the bounce page stands for.
  @usableFromInline var target: UInt

  @inlinable
  init(page: Int32, firstSector: UInt8, lastSector: UInt8, target: UInt) {
    self.page = page
    self.firstSector = firstSector
    self.lastSector = lastSector
    self.target = target
  }
}

/// The shadows of one ring and the pieces of each, allocated once a connection.
///
/// A slot id is an index here.
@safe @usableFromInline
struct ShadowTable: ~Copyable {
  // SAFETY: `shadows` addresses `count`, `pieces` count*segments, `references` count*referencesPerSlot initialised elements
  // until deinit; ids out of responses are checked against `count` before use.
  @usableFromInline let shadows: UnsafeMutablePointer<Shadow>
  @usableFromInline let pieces: UnsafeMutablePointer<Piece>
  /// Without persistent grants: each slot's own references, segments first, then descriptor pages.
  @usableFromInline let references: UnsafeMutablePointer<GrantReference>
  @usableFromInline let count: Int
  @usableFromInline let segments: Int
  @usableFromInline let referencesPerSlot: Int
  @usableFromInline var firstFree: Int32 = 0
  @usableFromInline var used = 0

  init(count: Int, segments: Int, slotReferences: [GrantReference]) {
    self.count = count
    self.segments = segments
    referencesPerSlot = slotReferences.count / count
    unsafe shadows = .allocate(capacity: count)
    unsafe pieces = .allocate(capacity: count * segments)
    unsafe references = .allocate(capacity: max(slotReferences.count, 1))
    for index in 0..<count {
      let next = index + 1 < count ? Int32(index + 1) : -1
      unsafe (shadows + index).initialize(
        to: Shadow(io: -1, nextFree: next, segmentCount: 0, operation: .read, state: .free))
    }
    unsafe pieces.initialize(
      repeating: Piece(page: 0, firstSector: 0, lastSector: 0, target: 0), count: count * segments)
    for (index, reference) in slotReferences.enumerated() { unsafe (references + index).initialize(to: reference) }
  }

  @inlinable
  deinit {
    unsafe shadows.deallocate()
    unsafe pieces.deallocate()
    unsafe references.deallocate()
  }

  @inlinable
  mutating func take() -> Int? {
    guard firstFree >= 0 else { return nil }
    let index = Int(firstFree)
    unsafe firstFree = shadows[index].nextFree
    used &+= 1
    return index
  }

  @inlinable
  mutating func giveBack(_ index: Int) {
    unsafe shadows[index].state = .free
    unsafe shadows[index].nextFree = firstFree
    firstFree = Int32(truncatingIfNeeded: index)
    used &-= 1
  }
}
