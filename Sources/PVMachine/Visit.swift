// SPDX-License-Identifier: MIT

import BlockIO
import GuestMemory
import Synchronization

/// One I/O of a queue on its way through another queue's ring, with a copy of its data.
///
/// ```
/// owner's thread    Visit(request): copies what is written  -->  enter  ...  bringHome: copies what was read
/// carrier's thread                                               submit(visit.request) ... end(code)
/// ```
///
/// The carrier touches the copy alone, and keeps it as long as it needs it: either queue may end at any moment. A visit is
/// answered once; what its owner has withdrawn is answered to nobody.
final class Visit: Sendable {
  /// The I/O, with memory that belongs to the visit.
  let request: IORequest
  /// The caller's protection tuples, copied too.
  let tuples: MemoryExtent?
  private let memory: VisitMemory
  private let answer: Mutex<(@Sendable (Visit, CInt?) -> Void)?>

  /// Copies an I/O and what it writes.
  /// - Parameter answer: takes 0 or an `errno`; nil when nobody carried the I/O, which its owner then still has to do.
  /// - Throws: ``SystemError`` when there is no memory for the copy.
  init(
    _ request: IORequest, tuples: MemoryExtent?, answer: @escaping @Sendable (Visit, CInt?) -> Void
  ) throws(SystemError) {
    let dataByteCount = request.memory?.byteCount ?? 0
    memory = try VisitMemory(dataByteCount: dataByteCount, tupleByteCount: tuples?.byteCount ?? 0)
    var copy = request
    copy.memory = dataByteCount > 0 ? memory.list : nil
    self.request = copy
    self.tuples = memory.tuples
    self.answer = Mutex(answer)
    guard request.operation == .write, let source = request.memory else { return }
    memory.fill(from: source)
    if let tuples, let target = memory.tuples { VisitMemory.copy(tuples, to: target) }
  }

  /// Whether nobody waits for it any more.
  var isWithdrawn: Bool { answer.withLock { $0 == nil } }
  /// Its owner is no more.
  func withdraw() { answer.withLock { $0 = nil } }

  /// Tells the owner what came of it, if nobody has yet.
  func end(_ code: CInt?) {
    let tell = answer.withLock { answer in
      defer { answer = nil }
      return answer
    }
    tell?(self, code)
  }

  /// Copies what was read to where its owner wants it.
  func bringHome(_ original: IORequest, tuples originalTuples: MemoryExtent?, _ code: CInt) {
    guard code == 0, original.operation == .read, let target = original.memory else { return }
    memory.empty(into: target)
    if let source = tuples, let originalTuples { VisitMemory.copy(source, to: originalTuples) }
  }
}

/// The memory of one visit: data in one piece, tuples behind it.
@safe private final class VisitMemory: @unchecked Sendable {
  // SAFETY: `extent` addresses one initialised extent until deinit. The bytes are written by the owner before the visit
  // enters, by the carrier until it ends, and read by the owner afterwards: a mailbox stands between them.
  private let bytes: MappedMemory
  private let extent: UnsafeMutablePointer<MemoryExtent>
  let tuples: MemoryExtent?

  init(dataByteCount: Int, tupleByteCount: Int) throws(SystemError) {
    bytes = try MappedMemory(anonymousByteCount: max(PageGeometry.pageSize, dataByteCount + tupleByteCount))
    let start = bytes.region.address
    unsafe extent = .allocate(capacity: 1)
    unsafe extent.initialize(to: MemoryExtent(address: start, byteCount: dataByteCount))
    tuples =
      tupleByteCount > 0 ? MemoryExtent(address: start + UInt(dataByteCount), byteCount: tupleByteCount) : nil
  }

  deinit { unsafe extent.deallocate() }

  var list: MemoryExtentList { unsafe MemoryExtentList(unsafeStart: extent, count: 1) }

  func fill(from source: MemoryExtentList) {
    var offset = 0
    for index in 0..<source.count {
      let piece = source[index]
      VisitMemory.copy(piece, to: part(at: offset, piece.byteCount))
      offset += piece.byteCount
    }
  }

  func empty(into target: MemoryExtentList) {
    var offset = 0
    for index in 0..<target.count {
      let piece = target[index]
      VisitMemory.copy(part(at: offset, piece.byteCount), to: piece)
      offset += piece.byteCount
    }
  }

  private func part(at offset: Int, _ byteCount: Int) -> MemoryExtent {
    MemoryExtent(address: bytes.region.address + UInt(offset), byteCount: byteCount)
  }

  static func copy(_ source: MemoryExtent, to target: MemoryExtent) {
    let region = target.region
    // SAFETY: both are whole, and kept by whoever named them until the visit has ended.
    unsafe source.region?.withUnsafeBytes { bytes in unsafe region?.copyIn(bytes.bytes, at: 0) }
  }
}
