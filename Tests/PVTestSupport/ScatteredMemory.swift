// SPDX-License-Identifier: MIT

public import GuestMemory

/// Memory for a request, in one piece or several, that stays in place as long as this object does.
@safe public final class ScatteredMemory {
  // SAFETY: `extents` addresses `extentCount` extents within `memory` until deinit.
  private let memory: MappedMemory
  private let extents: UnsafeMutablePointer<MemoryExtent>
  private let extentCount: Int

  /// The bytes, without the gaps.
  public let byteCount: Int

  /// Makes zeroed pieces of the given lengths, with a gap of 512 bytes between neighbours; the first is page-aligned.
  public init(pieces: [Int]) throws(SystemError) {
    byteCount = pieces.reduce(0, +)
    memory = try MappedMemory(anonymousByteCount: max(4096, byteCount + pieces.count * 512))
    unsafe extents = .allocate(capacity: max(1, pieces.count))
    extentCount = pieces.count
    var address = memory.region.address
    for (index, length) in pieces.enumerated() {
      unsafe (extents + index).initialize(to: MemoryExtent(address: address, byteCount: length))
      address += UInt(length + 512)
    }
  }

  /// Makes one zeroed piece.
  public convenience init(byteCount: Int) throws(SystemError) { try self.init(pieces: [byteCount]) }

  deinit { unsafe extents.deallocate() }

  /// What a request names.
  public var list: MemoryExtentList { unsafe MemoryExtentList(unsafeStart: extents, count: extentCount) }

  /// The first bytes, copied into memory of their own.
  public func prefix(_ byteCount: Int) throws(SystemError) -> ScatteredMemory {
    let copy = try ScatteredMemory(byteCount: byteCount)
    copy.bytes = Array(bytes.prefix(byteCount))
    return copy
  }

  /// The bytes of all pieces, one behind the other.
  public var bytes: [UInt8] {
    get {
      var all: [UInt8] = []
      all.reserveCapacity(byteCount)
      for index in 0..<extentCount {
        unsafe extents[index].region?.withUnsafeBytes { unsafe all.append(contentsOf: $0) }
      }
      return all
    }
    set {
      precondition(newValue.count == byteCount, "as many bytes as the pieces have")
      var start = 0
      for index in 0..<extentCount {
        unsafe extents[index].region?.withUnsafeBytes { piece in
          unsafe piece.copyBytes(from: newValue[start..<start + piece.count])
        }
        unsafe start += extents[index].byteCount
      }
    }
  }
}
