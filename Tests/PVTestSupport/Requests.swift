// SPDX-License-Identifier: MIT

public import BlockIO

extension IORequest {
  /// A request by byte offset and length.
  public static func at(
    _ offset: Int, _ byteCount: Int, _ operation: IOOperation, _ memory: ScatteredMemory? = nil,
    forceUnitAccess: Bool = false, tag: UInt64 = 7
  ) -> IORequest {
    IORequest(
      tag: tag, operation: operation,
      sectors: SectorRange(start: UInt64(offset / 512), count: UInt64(byteCount / 512)), memory: memory?.list,
      forceUnitAccess: forceUnitAccess)
  }

  /// A flush.
  public static func flush(tag: UInt64 = 7) -> IORequest {
    IORequest(tag: tag, operation: .flush, sectors: SectorRange(start: 0, count: 0))
  }
}

extension QueueDriver where Queue: ~Copyable {
  /// Runs one request by byte offset and length, and keeps its memory until it has completed.
  public mutating func run(
    at offset: Int, _ byteCount: Int, _ operation: IOOperation, _ memory: ScatteredMemory? = nil,
    forceUnitAccess: Bool = false
  ) -> CInt {
    let request = IORequest.at(offset, byteCount, operation, memory, forceUnitAccess: forceUnitAccess)
    let code = run(request)
    withExtendedLifetime(memory) {}
    return code
  }
}

extension SeededGenerator {
  /// Random bytes.
  public mutating func bytes(_ count: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 8)
    while bytes.count < count {
      unsafe withUnsafeBytes(of: next()) { unsafe bytes.append(contentsOf: $0) }
    }
    return Array(bytes.prefix(count))
  }
}
