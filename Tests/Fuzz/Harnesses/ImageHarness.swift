// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import Glibc
import GuestMemory
import PVPeers

@testable import DiskImages
@testable import Protection

/// What a tag file beside an image begins with, and what an image is: any bytes and any length.
///
/// The bytes are judged in memory; each 256th time a file is made of them, too, and must be judged alike.
final class ImageHarness: Harness {
  static let focus = "10Protection 10DiskImages ImageHarness"
  private let path = "/dev/shm/pvdisk-fuzz.\(getpid())"

  init() throws {}

  /// One input, taken apart.
  private struct Case {
    var choices: UInt8 = 0
    var length: Int64 = 0
    var sectors: UInt64 = 0
    var form = ProtectionForm()
    var bytes: [UInt8] = []
    var isReadOnly: Bool { choices & 8 != 0 }
  }

  func run(_ input: inout FuzzInput, isThorough: Bool) throws -> UInt64 {
    var this = Case()
    this.choices = input.byte()
    this.length = Int64(input.number(UInt16.self)) << Int64(input.byte() & 15)
    this.sectors = this.choices & 1 == 0 ? UInt64(input.byte()) + 1 : UInt64(input.number(UInt32.self))
    this.form.type = ProtectionType(rawValue: input.byte() & 3) ?? .type1
    if this.choices & 2 != 0 { this.form = ProtectionForm(type: this.form.type, intervalByteCount: 4096) }
    if this.choices & 128 != 0 { this.form.guardKind = .internetChecksum }
    this.bytes = this.choices & 4 == 0 ? header(&input, this) : input.rest
    var outcome = Outcome()
    let isRefused = judge(this, &outcome)
    verify(this, &outcome)
    if isThorough { try file(this, isRefused: isRefused) }
    return outcome.value
  }

  /// Whether the header is refused.
  private func judge(_ this: Case, _ outcome: inout Outcome) -> Bool {
    let header = this.bytes.prefix(TagHeader.byteCount)
    switch TagHeader.judge(header, form: this.form, sectorCount: this.sectors) {
    case .fits:
      demand(
        !isPlain(this.bytes) || header.elementsEqual(TagHeader.bytes(form: this.form, sectorCount: this.sectors)),
        "a header that fits is the one that would be written")
      outcome.note(0)
      return false
    case .grows:
      outcome.note(1)
      return false
    case .foreign: outcome.note(2)
    case .otherForm: outcome.note(3)
    case .larger(let sectors):
      demand(sectors > this.sectors, "a larger disk is larger")
      outcome.note(sectors)
    }
    return true
  }

  /// Whether the bytes that no one looks at are as they are written.
  private func isPlain(_ bytes: [UInt8]) -> Bool {
    (TagHeader.mark.count..<32).allSatisfy { bytes[$0] == 0 } && bytes[36..<40].allSatisfy { $0 == 0 }
  }

  /// Takes the bytes for data, and for the tuples that vouch for it.
  private func verify(_ this: Case, _ outcome: inout Outcome) {
    for place in stride(from: 0, to: this.bytes.count - 7, by: 8) {
      var word: UInt64 = 0
      for index in 0..<8 { word |= UInt64(this.bytes[place + index]) << UInt64(index * 8) }
      let tuple = ProtectionTuple(memory: word)
      demand(tuple.memory == word, "a tuple is its eight bytes")
      let reference = this.form.referenceTag(place: place / 8, first: this.sectors, start: UInt32(this.choices))
      switch this.form.judge(tuple, guardTag: UInt16(truncatingIfNeeded: word), referenceTag: reference) {
      case .sound: outcome.note(0)
      case .wrongGuard: outcome.note(1)
      case .wrongReference: outcome.note(2)
      }
    }
  }

  /// A header as it should be, with some of its bytes changed, or too short.
  private func header(_ input: inout FuzzInput, _ this: Case) -> [UInt8] {
    var bytes = TagHeader.bytes(form: this.form, sectorCount: this.sectors)
    let choice = input.byte()
    for _ in 0..<(choice & 3) { bytes[Int(input.byte()) % bytes.count] = input.byte() }
    if choice & 4 != 0 { bytes.removeLast(Int(input.byte()) % bytes.count) }
    input.append(input.remaining, to: &bytes)
    return bytes
  }

  // MARK: Files

  private func file(_ this: Case, isRefused: Bool) throws {
    try write(this.bytes, length: this.length)
    defer { unsafe unlink(path) }
    let before = content()
    do throws(BlockError) {
      let file = try TagFile(path: path, form: this.form, sectorCount: this.sectors, isReadOnly: this.isReadOnly)
      demand(before.isEmpty || !isRefused || this.length > this.bytes.count, "a file is judged as its bytes are")
      // What is said to be there can be looked at, to its last byte.
      let count = file.region.byteCount
      let interval = this.form.intervalByteCount
      demand(count == 8 * ((Int(this.sectors) << 9 + interval - 1) / interval), "a tuple each")
      if count > 0 { _ = file.region.load(UInt8.self, at: count - 1) }
      demand(file.flush() == 0, "a tag file can be flushed")
    } catch {
      demand(!"\(error)".isEmpty, "a refusal is a sentence")
      if !before.isEmpty { demand(content().starts(with: before), "a file that was refused stays as it was") }
    }
    image(this.choices)
  }

  /// Opens the same file as an image: its bytes are data, its length is all that counts.
  private func image(_ choices: UInt8) {
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

  private func write(_ bytes: [UInt8], length: Int64) throws {
    let descriptor = unsafe pv_open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw SystemError("open") }
    defer { close(descriptor) }
    // SAFETY: the address and the count are those of the array.
    _ = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(descriptor, $0.baseAddress, $0.count) }
    if length > bytes.count { _ = ftruncate(descriptor, Int(length)) }
  }

  /// The file's first bytes.
  private func content() -> [UInt8] {
    let descriptor = unsafe pv_open(path, O_RDONLY | O_CLOEXEC, 0)
    guard descriptor >= 0 else { return [] }
    defer { close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: 4096)
    // SAFETY: the address and the count are those of the array.
    let count = unsafe bytes.withUnsafeMutableBytes { unsafe read(descriptor, $0.baseAddress, $0.count) }
    return Array(bytes.prefix(max(count, 0)))
  }
}
