// SPDX-License-Identifier: MIT

import BlockIO
import GuestMemory

/// One of the I/Os that a world's user can have in flight, with the list of its pieces of memory.
@safe final class SimulatedIO {
  // SAFETY: `extents` addresses `mostPieces` extents until deinit.
  static let mostPieces = 4

  let slot: Int
  var isBusy = false
  var operation = IOOperation.flush
  var isForced = false
  var sectors = 0..<0
  /// The stamp of the first sector of a write.
  var firstStamp: UInt64 = 0
  /// When it was asked for, on the oracle's clock.
  var askedAt: UInt64 = 0
  private let extents: UnsafeMutablePointer<MemoryExtent>
  private var extentCount = 0

  init(slot: Int) {
    self.slot = slot
    unsafe extents = .allocate(capacity: Self.mostPieces)
    unsafe extents.initialize(repeating: MemoryExtent(address: 0, byteCount: 0), count: Self.mostPieces)
  }

  deinit { unsafe extents.deallocate() }

  /// Whether it changes sectors.
  var isWriting: Bool { operation != .read && operation != .flush }

  /// Cuts the sectors' memory into pieces within a buffer, with gaps where there is room.
  func layOut(in buffer: MemoryExtent, chance: Chance) {
    let count = sectors.count
    var room = buffer.byteCount / 512 - count
    var place = room > 0 ? chance.below(room + 1) : 0
    room -= place
    extentCount = 0
    var left = count
    while left > 0 {
      let isLast = extentCount == Self.mostPieces - 1
      let length = isLast || chance.oneIn(2) ? left : 1 + chance.below(left)
      let piece = MemoryExtent(address: buffer.address + UInt(place * 512), byteCount: length * 512)
      unsafe extents[extentCount] = piece
      extentCount += 1
      left -= length
      let gap = room > 0 && chance.oneIn(2) ? chance.below(min(room, 8) + 1) : 0
      room -= gap
      place += length + gap
    }
  }

  /// What a request names; nothing for one that moves no data.
  var memory: MemoryExtentList? {
    operation == .read || operation == .write
      ? unsafe MemoryExtentList(unsafeStart: extents, count: extentCount) : nil
  }

  /// Runs `body` for the memory of each sector.
  func forEachSector(_ body: (Int, SharedRegion) throws -> Void) rethrows {
    var sector = sectors.lowerBound
    for index in 0..<extentCount {
      guard let region = unsafe extents[index].region else { continue }
      for offset in stride(from: 0, to: region.byteCount, by: 512) {
        try body(sector, region.slice(at: offset, byteCount: 512))
        sector += 1
      }
    }
  }
}
