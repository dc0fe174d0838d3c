// SPDX-License-Identifier: MIT

import BlockIO
import Glibc
import GuestMemory
import PVMachine
import Protection

/// Does to an image what bad disks do, behind the back of the stack that reads it.
struct Sabotage {
  enum Kind: String, CaseIterable {
    case flippedBit = "a bit flipped in the image"
    case strayWrite = "a sector overwritten with another's, tuple and all"
    case lostWrite = "a sector that still holds what was there before"
  }

  struct Result {
    var reported = 0
    var named = 0
    var sound = 0
  }

  private let scratch: ScratchImage
  private let machine: Machine

  init(_ scratch: ScratchImage) throws(MachineError) {
    self.scratch = scratch
    machine = try Machine()
  }

  /// Plants errors one after the other and reads each back through the whole stack.
  func plant(_ kind: Kind, count: Int) throws(MachineError) -> Result {
    let disk = try machine.attach(scratch.protected)
    defer { disk.detach() }
    var result = Result()
    do throws(BlockError) {
      var queue = try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096))
      let descriptor = unsafe open(scratch.path, O_RDWR)
      defer { close(descriptor) }
      for index in 0..<count {
        let sector = UInt64(index * 37 % 8000 + 8)
        let before = Sabotage.read(descriptor, sector)
        let tags = scratch.protected.tags.region
        let tuple = tags.load(UInt64.self, at: Int(sector) * 8)
        let known = scratch.protected.findings.count
        sabotage(kind, descriptor, sector, before)
        // The ring has one code for every error: what the image said is EIO on the other side.
        if read(sector, &queue) != 0 { result.reported += 1 }
        if scratch.protected.findings.count > known, scratch.protected.findings.last?.sector == sector {
          result.named += 1
        }
        Sabotage.write(descriptor, sector, before)
        tags.store(tuple, at: Int(sector) * 8)
        if read(sector, &queue) == 0 { result.sound += 1 }
      }
    } catch { throw .disk(error) }
    return result
  }

  private func sabotage(_ kind: Kind, _ descriptor: CInt, _ sector: UInt64, _ before: [UInt8]) {
    var bytes = before
    let tags = scratch.protected.tags.region
    switch kind {
    case .flippedBit: bytes[Int(sector) % 512] ^= UInt8(1) << UInt8(sector % 8)
    case .strayWrite:
      bytes = Sabotage.read(descriptor, sector - 1)
      tags.store(tags.load(UInt64.self, at: Int(sector - 1) * 8), at: Int(sector) * 8)
    case .lostWrite: bytes = bytes.map { $0 ^ 0xFF }
    }
    Sabotage.write(descriptor, sector, bytes)
  }

  /// Reads the page around a sector.
  private func read(_ sector: UInt64, _ queue: inout some BlockQueue & ~Copyable) -> CInt {
    let extents = [MemoryExtent(address: queue.buffer(0).address, byteCount: 4096)]
    let sectors = SectorRange(start: sector & ~7, count: 8)
    return unsafe extents.withUnsafeBufferPointer { extents in
      guard let base = extents.baseAddress else { return EFAULT }
      let list = unsafe MemoryExtentList(unsafeStart: base, count: 1)
      return queue.runOne(IORequest(tag: 0, operation: .read, sectors: sectors, memory: list))
    }
  }

  private static func read(_ descriptor: CInt, _ sector: UInt64) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 512)
    _ = unsafe bytes.withUnsafeMutableBytes { unsafe pread(descriptor, $0.baseAddress, 512, Int(sector) * 512) }
    return bytes
  }

  private static func write(_ descriptor: CInt, _ sector: UInt64, _ bytes: [UInt8]) {
    _ = unsafe bytes.withUnsafeBytes { unsafe pwrite(descriptor, $0.baseAddress, 512, Int(sector) * 512) }
  }
}
