// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import DiskImages
import Glibc
import GuestMemory
import PVPeers
import Protection

/// Files of any content and length, taken for an image and for the tag file beside one.
enum ImageFuzz {
  private static let path = "/dev/shm/pvdisk-fuzz.\(getpid())"

  static func run(_ input: inout FuzzInput) throws {
    let choices = input.byte()
    let length = Int64(input.number(UInt16.self)) << Int64(input.byte() & 15)
    let sectors = choices & 1 == 0 ? UInt64(input.byte()) + 1 : UInt64(input.number(UInt32.self))
    var form = ProtectionForm()
    form.type = ProtectionType(rawValue: input.byte() & 3) ?? .type1
    if choices & 2 != 0 { form = ProtectionForm(type: form.type, intervalByteCount: 4096) }
    try write(choices & 4 == 0 ? header(&input, form, sectors) : input.rest, length: length)
    defer { unsafe unlink(path) }
    let before = content()
    do throws(BlockError) {
      let file = try TagFile(path: path, form: form, sectorCount: sectors, isReadOnly: choices & 8 != 0)
      // What is said to be there can be looked at, to its last byte.
      let count = file.region.byteCount
      demand(count == 8 * ((Int(sectors) << 9 + form.intervalByteCount - 1) / form.intervalByteCount), "a tuple each")
      if count > 0 { _ = file.region.load(UInt8.self, at: count - 1) }
      demand(file.flush() == 0, "a tag file can be flushed")
    } catch {
      demand(!"\(error)".isEmpty, "a refusal is a sentence")
      if !before.isEmpty { demand(content().starts(with: before), "a file that was refused stays as it was") }
    }
    image(choices)
  }

  /// Opens the same file as an image: its bytes are data, its length is all that counts.
  private static func image(_ choices: UInt8) {
    var options = ImageOptions(access: choices & 16 == 0 ? .readWrite : .readOnly, engine: .blocking)
    if choices & 32 != 0 { options.logicalSectorSize = choices & 64 == 0 ? 4096 : 512 }
    do throws(BlockError) {
      let image = try RawImage.open(path: path, options: options)
      var status = stat()
      _ = unsafe stat(path, &status)
      demand(image.geometry.byteCount <= UInt64(status.st_size), "a disk is no longer than its image")
      demand(image.geometry.sectorCount > 0, "a disk has a sector")
    } catch {
      demand(!"\(error)".isEmpty, "a refusal is a sentence")
    }
  }

  /// A header as it should be, with some of its bytes changed.
  private static func header(_ input: inout FuzzInput, _ form: ProtectionForm, _ sectors: UInt64) -> [UInt8] {
    var bytes = Array("pvdisk protection\n".utf8) + [UInt8](repeating: 0, count: 30)
    bytes[32] = 1
    bytes[33] = form.type.rawValue
    bytes[34] = form.guardKind.rawValue
    bytes[35] = UInt8(form.intervalShift)
    for place in 0..<8 { bytes[40 + place] = UInt8(truncatingIfNeeded: sectors >> UInt64(place * 8)) }
    for _ in 0..<(input.byte() & 3) { bytes[Int(input.byte()) % bytes.count] = input.byte() }
    return bytes + input.rest
  }

  private static func write(_ bytes: [UInt8], length: Int64) throws {
    let descriptor = unsafe pv_open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw SystemError("open") }
    defer { close(descriptor) }
    // SAFETY: the address and the count are those of the array.
    _ = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(descriptor, $0.baseAddress, $0.count) }
    if length > bytes.count { _ = ftruncate(descriptor, Int(length)) }
  }

  /// The file's first bytes.
  private static func content() -> [UInt8] {
    let descriptor = unsafe pv_open(path, O_RDONLY | O_CLOEXEC, 0)
    guard descriptor >= 0 else { return [] }
    defer { close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: 4096)
    // SAFETY: the address and the count are those of the array.
    let count = unsafe bytes.withUnsafeMutableBytes { unsafe read(descriptor, $0.baseAddress, $0.count) }
    return Array(bytes.prefix(max(count, 0)))
  }
}
