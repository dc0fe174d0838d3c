// SPDX-License-Identifier: MIT

import Glibc
import GuestMemory

/// A queue for those who want one request at a time and its outcome: a test, a tool.
///
/// ```swift
/// var disk = try device.blockingQueue()
/// try disk.write(bytes, at: 4096)
/// try disk.flush()
/// let same = try disk.read(bytes.count, at: 4096)
/// ```
///
/// Offsets and counts are in bytes, and whole logical sectors. Longer transfers are cut to the queue's one buffer.
///
/// **Assumptions.** One thread owns it.
public struct BlockingQueue<Queue: BlockQueue & ~Copyable>: ~Copyable {
  /// The queue that requests travel through.
  public var queue: Queue
  private let buffer: MemoryExtent
  private var nextTag: UInt64 = 0

  /// Takes over a queue that was made with at least one buffer.
  public init(_ queue: consuming Queue) {
    buffer = queue.buffer(0)
    self.queue = queue
  }

  /// Reads `count` bytes.
  /// - Throws: ``BlockError/system(call:path:code:)`` with the disk's `errno`.
  public mutating func read(_ count: Int, at offset: UInt64) throws(BlockError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var done = 0
    while done < count {
      let piece = min(count - done, buffer.byteCount)
      try transfer(.read, offset + UInt64(done), piece)
      unsafe bytes.withUnsafeMutableBytes { target in
        let part = unsafe UnsafeMutableRawBufferPointer(rebasing: target[done..<done + piece])
        // SAFETY: the part is `piece` bytes of the array, and the buffer holds at least as many.
        var span = unsafe part.mutableBytes
        buffer.region?.copyOut(at: 0, into: &span)
      }
      done += piece
    }
    return bytes
  }

  /// Writes bytes.
  /// - Throws: ``BlockError/system(call:path:code:)`` with the disk's `errno`; what came before the failure may be written.
  public mutating func write(_ bytes: [UInt8], at offset: UInt64) throws(BlockError) {
    var done = 0
    while done < bytes.count {
      let piece = min(bytes.count - done, buffer.byteCount)
      unsafe buffer.region?.copyIn(bytes.span.bytes.extracting(done..<done + piece), at: 0)
      try transfer(.write, offset + UInt64(done), piece)
      done += piece
    }
  }

  /// Makes everything written durable.
  public mutating func flush() throws(BlockError) {
    try run(IORequest(tag: nextTag, operation: .flush, sectors: SectorRange(start: 0, count: 0)))
  }

  /// Clears a range: discards it, or makes it read as zeros.
  public mutating func clear(_ operation: IOOperation, _ count: Int, at offset: UInt64) throws(BlockError) {
    try run(IORequest(tag: nextTag, operation: operation, sectors: Self.sectors(offset, count)))
  }

  private static func sectors(_ offset: UInt64, _ count: Int) -> SectorRange {
    precondition(offset % 512 == 0 && count % 512 == 0, "whole sectors")
    return SectorRange(start: offset / 512, count: UInt64(count / 512))
  }

  private mutating func transfer(_ operation: IOOperation, _ offset: UInt64, _ count: Int) throws(BlockError) {
    let extents = [MemoryExtent(address: buffer.address, byteCount: count)]
    // SAFETY: the array outlives the call, which returns after the completion.
    let code = unsafe extents.withUnsafeBufferPointer { list -> CInt in
      guard let start = list.baseAddress else { return EINVAL }
      return outcome(
        IORequest(
          tag: nextTag, operation: operation, sectors: Self.sectors(offset, count),
          memory: unsafe MemoryExtentList(unsafeStart: start, count: 1)))
    }
    if code != 0 { throw .system(call: "\(operation)", path: "", code: code) }
  }

  private mutating func run(_ request: IORequest) throws(BlockError) {
    let code = outcome(request)
    if code != 0 { throw .system(call: "\(request.operation)", path: "", code: code) }
  }

  /// Runs one request to its end; 0 or its `errno`.
  private mutating func outcome(_ request: IORequest) -> CInt {
    nextTag += 1
    guard case .accepted = queue.submit(request) else { return EBUSY }
    while true {
      queue.advance()
      if let completion = queue.nextCompletion() { return completion.errorCode }
      guard case .maySleep = queue.prepareToWait() else { continue }
      var waiting = pollfd(fd: queue.waitDescriptor, events: Int16(POLLIN), revents: 0)
      _ = unsafe poll(&waiting, 1, -1)
    }
  }
}

extension BlockDevice {
  /// Makes queue `index` for one request at a time, with a buffer of its own.
  /// - Parameter bufferByteCount: the longest single request, a whole number of pages.
  /// - Throws: ``BlockError`` when the queue cannot be had.
  public func blockingQueue(
    _ index: Int = 0, bufferByteCount: Int = 1 << 20
  ) throws(BlockError) -> BlockingQueue<Queue> {
    BlockingQueue(try makeQueue(index, buffers: BufferDemand(count: 1, byteCount: bufferByteCount)))
  }
}
