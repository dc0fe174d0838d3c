// SPDX-License-Identifier: MIT

import BlockIO
import Glibc
import GuestMemory

/// The buffers that a queue's user demanded: one anonymous mapping, cut into equal, page-aligned pieces.
struct BufferPool: ~Copyable, Sendable {
  let count: Int
  private let bytesEach: Int
  private let memory: MappedMemory?
  private let start: UInt

  /// Maps the memory; pages come into being when they are first touched.
  init(_ demand: BufferDemand) throws(SystemError) {
    count = demand.count
    bytesEach = demand.byteCount
    let (total, overflow) = demand.count.multipliedReportingOverflow(by: demand.byteCount)
    guard !overflow else { throw SystemError("mmap", code: ENOMEM) }
    guard total > 0 else {
      memory = nil
      start = 0
      return
    }
    let mapped = try MappedMemory(anonymousByteCount: total)
    start = mapped.region.address
    memory = consume mapped
  }

  subscript(index: Int) -> MemoryExtent {
    precondition(index >= 0 && index < count, "no such buffer")
    return MemoryExtent(address: start + UInt(index * bytesEach), byteCount: bytesEach)
  }
}
