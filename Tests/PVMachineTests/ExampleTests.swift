// SPDX-License-Identifier: MIT

import BlockIO
import DiskImages
import Glibc
import PVMachine
import Testing

/// What README and the library's documentation show; each example is a test, so that it stays true.
@Suite("The library's examples")
struct ExampleTests {
  @Test("a disk in process: every byte goes through the whole stack")
  func inProcess() throws {
    let file = try TemporaryImage(byteCount: 16 << 20)
    let image = try RawImage.open(path: file.path, options: ImageOptions(access: .readWrite))

    let machine = try Machine()
    let disk: AttachedDisk<RawImage> = try machine.attach(image)
    var queue = try disk.blockingQueue()
    try queue.write(Array("hello, ring".utf8) + Array(repeating: 0, count: 501), at: 8192)
    try queue.flush()
    #expect(try queue.read(512, at: 8192).starts(with: "hello, ring".utf8))
    _ = consume queue
    disk.detach()
    try image.close()

    #expect(try Array(file.contents()[8192..<8203]) == Array("hello, ring".utf8))
  }

  @Test("a mounted disk for a test, in three lines")
  func mounted() throws {
    let disk = try TemporaryDisk(byteCount: 64 << 20)
    let file = unsafe open(disk.path, O_RDWR)
    #expect(unsafe pwrite(file, "data", 4, 12_345) == 4)
    #expect(fsync(file) == 0)
    close(file)
    #expect(disk.mounted.statistics.backendSum("f_req") > 0)
    let outcome = disk.close()
    #expect(outcome.flushFailure == nil && !outcome.wasBusy)
    #expect(unsafe access(disk.imagePath, F_OK) != 0)
  }

  @Test("a transfer longer than the buffer is cut, and a place beyond the end is an error of that request alone")
  func longAndWrong() throws {
    let disk = try Machine().attach(NullImage(sectorCount: 65_536))
    var queue = try disk.blockingQueue(bufferByteCount: 65_536)
    #expect(try queue.read(1 << 20, at: 0).count == 1 << 20)
    let refusal = #expect(throws: BlockError.self) { try queue.read(512, at: 65_536 * 512) }
    #expect(refusal == .system(call: "read", path: "", code: EIO))
    #expect(try queue.read(512, at: 65_535 * 512).count == 512)
    _ = consume queue
    #expect(disk.detach() == 0)
  }

  @Test("a disk that cannot be made leaves nothing behind, and says why")
  func refused() throws {
    #expect(throws: MountError.self) { try TemporaryDisk(byteCount: 0) }
    #expect(throws: MountError.self) { try TemporaryDisk(byteCount: 1 << 20) { $0.disk.queues = 0 } }
  }
}
