// SPDX-License-Identifier: MIT

public import BlockIO
import CLinux
import Glibc
import GuestMemory
import Synchronization

/// A disk whose bytes are those of a regular file or block device, one for one.
///
/// The object is the control plane; data moves through ``RawImageQueue`` values. While it is open it holds locks that
/// keep other programs away: everybody from a writable image, writers from a read-only one. They are the locks that QEMU
/// takes, so that the two respect each other.
///
/// What a regular file holds beyond its last whole sector is not part of the disk and is never touched.
public final class RawImage: BlockDevice {
  /// The name that it was opened by.
  public let path: String
  /// How it was opened.
  public let options: ImageOptions

  let file: ImageFile
  let ledger: ImageLedger
  private let zeroMemory: MappedMemory
  private let mapping: ImageMapping?
  private let state: Mutex<State>
  private let ignoredTail: Atomic<Int>

  private struct State {
    var isOpen = true
    var liveQueues: Set<Int> = []
    /// For each queue the failed writebacks that its user has been told of.
    var reportedFailures: [UInt32]
  }

  init(
    path: String, options: ImageOptions, file: ImageFile, byteCount: UInt64, zeroMemory: consuming MappedMemory,
    mapping: ImageMapping?
  ) {
    self.path = path
    self.options = options
    self.file = file
    self.zeroMemory = zeroMemory
    self.mapping = mapping
    ledger = ImageLedger(sectorCount: file.sectorCount(in: byteCount))
    ignoredTail = Atomic(Int(byteCount % UInt64(file.logicalSectorSize)))
    state = Mutex(State(reportedFailures: Array(repeating: 0, count: options.queueCount)))
  }

  deinit {
    if state.withLock({ $0.isOpen }) { releaseFile() }
  }

  /// Size, sector sizes and abilities, as they were last looked up.
  public var geometry: BlockGeometry {
    BlockGeometry(
      sectorCount: ledger.sectorCount.load(ordering: .acquiring), logicalSectorSize: file.logicalSectorSize,
      physicalSectorSize: file.physicalSectorSize, isReadOnly: file.isReadOnly, hasVolatileCache: !file.isReadOnly,
      discard: ledger.discardIsUnsupported.load(ordering: .relaxed) ? nil : file.discard)
  }

  /// The number of queues that may be made.
  public var queueCount: Int { options.queueCount }

  /// Bytes at the end of the file that are not part of the disk, because they fill no sector.
  public var ignoredTailByteCount: Int { ignoredTail.load(ordering: .relaxed) }

  /// Makes a queue, and memory for the buffers.
  public func makeQueue(_ index: Int, buffers: BufferDemand) throws(BlockError) -> RawImageQueue {
    precondition(index >= 0 && index < queueCount, "no such queue")
    state.withLock { state in
      precondition(state.isOpen, "the image is closed")
      precondition(state.liveQueues.insert(index).inserted, "queue \(index) exists already")
    }
    do throws(BlockError) {
      return try makeQueueParts(index, buffers: buffers)
    } catch {
      _ = state.withLock { $0.liveQueues.remove(index) }
      throw error
    }
  }

  private func makeQueueParts(_ index: Int, buffers: BufferDemand) throws(BlockError) -> RawImageQueue {
    let capacity = max(64, buffers.count)
    do throws(SystemError) {
      let slots = try SlotTable(count: capacity)
      let ring = try SubmissionRing(entryCount: capacity, file: file.descriptor, engine: options.engine)
      return RawImageQueue(image: self, index: index, buffers: try BufferPool(buffers), slots: slots, ring: ring)
    } catch {
      throw .system(call: error.call.description, path: path, code: error.code)
    }
  }

  func reportedFailures(of index: Int) -> UInt32 { state.withLock { $0.reportedFailures[index] } }

  func endQueue(_ index: Int, reportedFailures: UInt32) {
    state.withLock { state in
      state.liveQueues.remove(index)
      state.reportedFailures[index] = reportedFailures
    }
  }

  /// Looks up the size again, for a file that has grown or shrunk.
  /// - Returns: The geometry that holds from now on, for requests submitted from now on.
  @discardableResult
  public func refreshGeometry() throws(BlockError) -> BlockGeometry {
    switch ImageSystemCalls.byteCount(file.descriptor, isBlockDevice: file.isBlockDevice) {
    case .success(let byteCount):
      ledger.sectorCount.store(file.sectorCount(in: byteCount), ordering: .releasing)
      ignoredTail.store(Int(byteCount % UInt64(file.logicalSectorSize)), ordering: .relaxed)
    case .failure(let error):
      throw .system(call: file.isBlockDevice ? "ioctl(BLKGETSIZE64)" : "fstat", path: path, code: error.code)
    }
    return geometry
  }

  /// The first byte at or after `offset` that holds data.
  public func nextData(from offset: UInt64) -> UInt64? {
    let end = geometry.byteCount
    guard offset < end else { return nil }
    let found = ImageSystemCalls.seek(file.descriptor, offset: offset, whence: pv_seek_data)
    if found == -Int64(ENXIO) { return nil }
    guard found >= 0 else { return offset }
    return UInt64(found) < end ? UInt64(found) : nil
  }

  /// The first byte at or after `offset` that lies in a hole.
  public func nextHole(from offset: UInt64) -> UInt64 {
    let end = geometry.byteCount
    guard offset < end else { return end }
    let found = ImageSystemCalls.seek(file.descriptor, offset: offset, whence: pv_seek_hole)
    return found >= 0 ? min(UInt64(found), end) : end
  }

  /// Makes everything durable, gives the locks back and closes the file.
  ///
  /// All queues must have gone.
  /// - Throws: ``BlockError`` when the last sync failed, or one that nobody can make good failed before: data was lost.
  ///   The file is closed all the same.
  public func close() throws(BlockError) {
    let wasOpen = state.withLock { state in
      precondition(state.liveQueues.isEmpty, "the image is closed while queues use it")
      defer { state.isOpen = false }
      return state.isOpen
    }
    guard wasOpen else { return }
    var errorCode = ledger.writebackFailures.errorCode
    if !file.isReadOnly && file.cache != .unsafe {
      let code = ImageSystemCalls.dataSync(file.descriptor)
      if errorCode == 0 { errorCode = code }
    }
    releaseFile()
    if errorCode != 0 { throw .system(call: "fdatasync", path: path, code: errorCode) }
  }

  private func releaseFile() {
    ImageLock.release(file.descriptor)
    // What a local file's close could still report, the sync has reported.
    _ = Glibc.close(file.descriptor)
  }
}
