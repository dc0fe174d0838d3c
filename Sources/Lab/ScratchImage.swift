// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import DiskImages
import Glibc
import GuestMemory
import PVMachine
import Protection

/// An image of the laboratory's own, with its tag file; both go away with the experiment.
final class ScratchImage: Sendable {
  let path: String
  let image: RawImage
  let protected: ProtectedDisk<RawImage>

  init(byteCount: Int, queues: Int = 1) throws(MachineError) {
    var folder = "/tmp"
    if let named = unsafe getenv("TMPDIR") { folder = unsafe String(cString: named) }
    path = "\(folder)/pvdisk-lab-\(getpid())-\(pv_monotonic_nanoseconds()).img"
    do throws(BlockError) {
      try RawImage.create(path: path, byteCount: UInt64(byteCount))
      image = try RawImage.open(
        path: path, options: ImageOptions(access: .readWrite, cache: .unsafe, queueCount: queues))
      let tags = try TagFile(
        path: TagFile.path(besides: path), form: ProtectionForm(), sectorCount: image.geometry.sectorCount)
      protected = ProtectedDisk(image, tags: tags)
    } catch { throw .disk(error) }
    try fill(byteCount)
  }

  /// Writes it once from front to back, so that reads find data and tuples.
  private func fill(_ byteCount: Int) throws(MachineError) {
    do throws(BlockError) {
      let benchmark = StackBenchmark(access: .sequentialRead, blockByteCount: 1 << 20, depth: 1, duration: 0)
      var queue = try protected.makeQueue(0, buffers: benchmark.demand)
      let buffer = queue.buffer(0)
      let extents = [MemoryExtent(address: buffer.address, byteCount: 1 << 20)]
      for block in 0..<byteCount >> 20 {
        buffer.region?.fill(UInt8(truncatingIfNeeded: block * 7 + 1))
        try unsafe extents.withUnsafeBufferPointer { (extents) throws(BlockError) in
          guard let base = extents.baseAddress else { return }
          let list = unsafe MemoryExtentList(unsafeStart: base, count: 1)
          let sectors = SectorRange(start: UInt64(block) << 11, count: 1 << 11)
          let code = queue.runOne(IORequest(tag: 0, operation: .write, sectors: sectors, memory: list))
          if code != 0 { throw .system(call: "pwritev", path: path, code: code) }
        }
      }
    } catch { throw .disk(error) }
  }

  func remove() {
    unsafe unlink(path)
    unsafe unlink(TagFile.path(besides: path))
  }
}

extension BlockQueue where Self: ~Copyable {
  /// Runs one request alone; 0 or an `errno`.
  mutating func runOne(_ request: IORequest) -> CInt {
    guard case .accepted = submit(request) else { return EAGAIN }
    while true {
      advance()
      if let done = nextCompletion() { return done.errorCode }
      guard prepareToWait() == .maySleep else { continue }
      var waiting = pollfd(fd: waitDescriptor, events: Int16(POLLIN), revents: 0)
      _ = unsafe poll(&waiting, 1, 1000)
    }
  }
}
