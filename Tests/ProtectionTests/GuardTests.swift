// SPDX-License-Identifier: MIT

import GuestMemory
import PVTestSupport
import Protection
import Testing
import XenRecords

/// The ways to compute a CRC, with the definition itself among them.
enum CRCMethod: CaseIterable, Sendable {
  case definition, tables, multiplication

  func crc(_ bytes: some Collection<UInt8>, after seed: UInt16 = 0) -> UInt16 {
    switch self {
    case .definition:
      return bytes.reduce(seed) { crc, byte in
        (0..<8).reduce(crc ^ UInt16(byte) << 8) { crc, _ in
          crc & 0x8000 != 0 ? crc << 1 ^ GuardTables.polynomial : crc << 1
        }
      }
    case .tables, .multiplication:
      let tables = GuardTables(multiplies: self == .multiplication)
      return unsafe Array(bytes).withUnsafeBytes { unsafe tables.crc(of: $0, after: seed) }
    }
  }
}

/// The bytes that a vector's description means.
func vectorBytes(_ text: String) throws -> [UInt8] {
  if text.hasPrefix("ascii:") { return Array(text.dropFirst(6).utf8) }
  if text == "empty" { return [] }
  if text.hasPrefix("hex:") {
    let words = text.dropFirst(4).split(separator: " ")
    let byte = try #require(UInt8(words[0], radix: 16))
    return Array(repeating: byte, count: try #require(Int(words[2])))
  }
  if text.hasPrefix("bytes i"), let last = text.split(separator: ".").last.flatMap({ Int($0) }) {
    return (0...last).map { UInt8(truncatingIfNeeded: $0) }
  }
  var bytes = [UInt8](repeating: 0, count: 512)
  if text.contains("first=01") { bytes[0] = 1 }
  if text.contains("last=01") { bytes[511] = 1 }
  return bytes
}

@Suite("Guard tags")
struct GuardTests {
  @Test("CRC-16/T10-DIF and the Internet checksum are those of the vectors", arguments: CRCMethod.allCases)
  func vectors(method: CRCMethod) throws {
    let rows = try GoldenVectors.load().checksums
    #expect(rows.count == 14)
    for row in rows {
      let bytes = try vectorBytes(row[0])
      #expect(method.crc(bytes) == UInt16(row[1].dropFirst(2), radix: 16), "\(row[0])")
      let tables = GuardTables()
      let checksum = unsafe bytes.withUnsafeBytes { unsafe tables.checksum(ofSum: tables.sum(of: $0)) }
      #expect(checksum == UInt16(row[2].dropFirst(2), radix: 16), "\(row[0])")
    }
    #expect(method.crc(Array("123456789".utf8)) == 0xD0DB)
  }

  @Test("all ways to compute a CRC agree, at every length and in any two parts", arguments: [UInt64(1), 2, 3])
  func agreement(seed: UInt64) {
    var generator = SeededGenerator(seed: seed)
    for length in Array(0..<20) + Array(stride(from: 56, to: 300, by: 9)) + [
      63, 64, 127, 128, 129, 511, 512, 513, 4095, 4096, 4097,
    ] {
      let bytes = generator.bytes(length)
      let start = UInt16(truncatingIfNeeded: generator.next())
      let expected = CRCMethod.definition.crc(bytes, after: start)
      let cut = Int.random(in: 0...length, using: &generator)
      for method in [CRCMethod.tables, .multiplication] {
        #expect(method.crc(bytes, after: start) == expected, "\(method), \(length) bytes, seed \(seed)")
        let first = method.crc(bytes[..<cut], after: start)
        #expect(method.crc(bytes[cut...], after: first) == expected, "\(method), cut at \(cut), seed \(seed)")
      }
    }
  }

  @Test("a message with its CRC behind it has the CRC 0")
  func residue() {
    var generator = SeededGenerator(seed: 9)
    for method in CRCMethod.allCases {
      let bytes = generator.bytes(512)
      let crc = method.crc(bytes)
      #expect(method.crc(bytes + [UInt8(crc >> 8), UInt8(crc & 0xFF)]) == 0)
    }
  }

  @Test("the Internet checksum goes on over even parts, and does not overflow")
  func checksumParts() {
    let tables = GuardTables()
    let bytes = [UInt8](repeating: 0xFF, count: 1 << 20)
    let whole = unsafe bytes.withUnsafeBytes { unsafe tables.sum(of: $0) }
    let parts = unsafe bytes.withUnsafeBytes { bytes in
      let first = unsafe tables.sum(of: UnsafeRawBufferPointer(rebasing: bytes[..<510]))
      return unsafe tables.sum(of: UnsafeRawBufferPointer(rebasing: bytes[510...]), after: first)
    }
    #expect(tables.checksum(ofSum: whole) == 0)
    #expect(tables.checksum(ofSum: parts) == 0)
  }
}

@Suite("Protection tuples")
struct TupleTests {
  @Test("tuples are those of the vectors, byte for byte")
  func vectors() throws {
    let vectors = try GoldenVectors.load().tuples
    #expect(vectors.count == 5)
    for vector in vectors {
      let memory = try ScatteredMemory(byteCount: 512)
      memory.bytes = try vectorBytes(vector.input)
      let type = try #require(ProtectionType(rawValue: UInt8(vector.type)))
      let scanner = ProtectionScanner(form: ProtectionForm(type: type, applicationTag: vector.application))
      let tuples = try ScatteredMemory(byteCount: 8)
      var cursor = TupleCursor(tuples.list)
      scanner.generate(memory.list, sector: vector.sector, into: &cursor)
      #expect(tuples.bytes == bytes(hex: vector.hex), "\(vector.input)")
      var check = TupleCursor(tuples.list)
      #expect(scanner.verify(memory.list, sector: vector.sector, against: &check) == nil)
    }
  }

  /// A tuple, and what each type says of it at interval 7 when the data's guard is 0x1234 and a type 2 request starts at 100.
  static let rules: [(tuple: ProtectionTuple, isSound: [Bool])] = [
    (ProtectionTuple(guardTag: 0x1234, applicationTag: 0, referenceTag: 7), [true, false, true]),
    (ProtectionTuple(guardTag: 0x1234, applicationTag: 0, referenceTag: 107), [false, true, true]),
    (ProtectionTuple(guardTag: 0x1234, applicationTag: 0xBEEF, referenceTag: 7), [true, false, true]),
    (ProtectionTuple(guardTag: 0x1235, applicationTag: 0, referenceTag: 7), [false, false, false]),
    (ProtectionTuple(guardTag: 0, applicationTag: 0xFFFF, referenceTag: 0), [true, true, false]),
    (ProtectionTuple(guardTag: 0, applicationTag: 0xFFFF, referenceTag: 0xFFFF_FFFF), [true, true, true]),
    (ProtectionTuple(guardTag: 0, applicationTag: 0, referenceTag: 0xFFFF_FFFF), [false, false, false]),
    (.unprotected, [true, true, true]),
  ]

  @Test("types 1, 2 and 3 check what they check, and their escapes hold", arguments: rules.indices)
  func types(row: Int) {
    let rule = TupleTests.rules[row]
    for (type, isSound) in zip(ProtectionType.allCases, rule.isSound) {
      let form = ProtectionForm(type: type)
      let reference = form.referenceTag(place: 7, first: 0, start: 100)
      let verdict = form.judge(rule.tuple, guardTag: 0x1234, referenceTag: reference)
      #expect((verdict == .sound) == isSound, "\(type): \(verdict)")
    }
  }

  @Test("the reference tag is the low 32 bits of the place, and wraps")
  func references() {
    let form = ProtectionForm(type: .type1)
    #expect(form.referenceTag(place: 2, first: 0xFFFF_FFFF, start: 0) == 1)
    #expect(ProtectionForm(type: .type2).referenceTag(place: 2, first: 5, start: .max) == 1)
    #expect(ProtectionForm(type: .type3).referenceTag(place: 2, first: 5, start: 9) == 0)
  }

  @Test(
    "however data and tuples are scattered, the tuples are the same, and a flipped bit is found in its interval",
    arguments: [512, 4096], GuardKind.allCases)
  func scattered(interval: Int, kind: GuardKind) throws {
    var generator = SeededGenerator(seed: UInt64(interval))
    let form = ProtectionForm(guardKind: kind, intervalByteCount: interval)
    let scanner = ProtectionScanner(form: form)
    for _ in 0..<20 {
      let sectors = Int.random(in: 1...40, using: &generator) * interval / 512
      let contents = generator.bytes(sectors * 512)
      let whole = try ScatteredMemory(byteCount: contents.count)
      whole.bytes = contents
      let apart = try ScatteredMemory(pieces: cut(sectors, 512, &generator))
      apart.bytes = contents
      let count = scanner.intervals(in: contents.count)
      let plain = try ScatteredMemory(byteCount: count * 8)
      let scatteredTuples = try ScatteredMemory(pieces: cut(count, 8, &generator))
      var first = TupleCursor(plain.list)
      scanner.generate(whole.list, sector: 64, into: &first)
      var second = TupleCursor(scatteredTuples.list)
      scanner.generate(apart.list, sector: 64, into: &second)
      #expect(plain.bytes == scatteredTuples.bytes)
      var check = TupleCursor(scatteredTuples.list)
      #expect(scanner.verify(apart.list, sector: 64, against: &check) == nil)
      let place = Int.random(in: 0..<contents.count, using: &generator)
      var flipped = contents
      flipped[place] ^= UInt8(1) << UInt8.random(in: 0..<8, using: &generator)
      apart.bytes = flipped
      var again = TupleCursor(scatteredTuples.list)
      let violation = try #require(scanner.verify(apart.list, sector: 64, against: &again))
      #expect(violation.sector == UInt64(64 + place / interval * interval / 512))
      guard case .wrongGuard = violation.verdict else {
        Issue.record("\(violation)")
        return
      }
    }
  }

  private func cut(_ total: Int, _ unit: Int, _ generator: inout SeededGenerator) -> [Int] {
    var rest = total
    var pieces: [Int] = []
    while rest > 0 {
      let piece = Int.random(in: 1...min(rest, 5), using: &generator)
      pieces.append(piece * unit)
      rest -= piece
    }
    return pieces
  }
}
