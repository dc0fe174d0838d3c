// SPDX-License-Identifier: MIT

public import BlockIO

/// What a disk must hold, and a source of requests that are clear about it: no two in flight touch the same sector unless
/// both read.
public struct DiskModel {
  /// A request in flight, with its memory and what a read of it must find.
  public struct Pending {
    var operation: IOOperation
    var sectors: Range<Int>
    var memory: ScatteredMemory?
    var expected: [UInt8]?
    /// What was in the sectors that it changes.
    var before: [UInt8]?
  }

  /// Bytes in a logical sector.
  public let sectorSize: Int
  /// What the disk must hold.
  public var bytes: [UInt8]
  /// Requests in flight by tag.
  public var pending: [UInt64: Pending] = [:]
  /// Where chance comes from.
  public var generator: SeededGenerator
  private var nextTag: UInt64 = 1000
  private let operations: [IOOperation]

  /// Starts from a disk's contents; requests are drawn from `operations`.
  public init(bytes: [UInt8], sectorSize: Int, operations: [IOOperation], seed: UInt64) {
    self.bytes = bytes
    self.sectorSize = sectorSize
    self.operations = operations
    generator = SeededGenerator(seed: seed)
  }

  /// A request that clashes with none in flight; nil when luck had none to offer.
  public mutating func nextRequest() throws -> IORequest? {
    let operation = operations.randomElement(using: &generator) ?? .read
    nextTag += 1
    if operation == .flush {
      pending[nextTag] = Pending(operation: .flush, sectors: 0..<0)
      return .flush(tag: nextTag)
    }
    let count = bytes.count / sectorSize
    let length = Int.random(in: 1...(Bool.random(using: &generator) ? 8 : 300), using: &generator)
    let start = Int.random(in: 0...(count - min(length, count)), using: &generator)
    let sectors = start..<min(start + length, count)
    let isClash = pending.values.contains { other in
      other.sectors.overlaps(sectors) && (other.operation != .read || operation != .read)
    }
    if isClash { return nil }
    let range = sectors.lowerBound * sectorSize..<sectors.upperBound * sectorSize
    let memory = operation == .read || operation == .write ? try pieces(of: sectors.count) : nil
    var request = Pending(operation: operation, sectors: sectors, memory: memory)
    if operation != .read { request.before = Array(bytes[range]) }
    switch operation {
    case .read: request.expected = Array(bytes[range])
    case .write:
      let contents = generator.bytes(range.count)
      memory?.bytes = contents
      bytes.replaceSubrange(range, with: contents)
    default: bytes.replaceSubrange(range, with: repeatElement(0, count: range.count))
    }
    pending[nextTag] = request
    return .at(
      range.lowerBound, range.count, operation, memory,
      forceUnitAccess: operation == .write && Int.random(in: 0..<8, using: &generator) == 0, tag: nextTag)
  }

  /// Takes a completion back: nil, or a sentence about what is wrong.
  public mutating func finish(_ completion: IOCompletion) -> String? {
    guard let request = pending.removeValue(forKey: completion.tag) else { return "nobody asked for \(completion)" }
    guard completion.errorCode == 0 else { return "\(request.operation) failed: \(completion.errorCode)" }
    guard let expected = request.expected else { return nil }
    return request.memory?.bytes == expected ? nil : "sectors \(request.sectors) read wrong"
  }

  /// Takes back a request that failed because the disk went away: nil, or a sentence about what is wrong.
  ///
  /// Each of its sectors is as it was, or as it was to be if the disk may have been asked; what is there counts from now on.
  public mutating func lose(_ tag: UInt64, found disk: [UInt8], mayBeDone: Bool) -> String? {
    guard let request = pending.removeValue(forKey: tag) else { return "nobody asked for \(tag)" }
    guard let before = request.before else { return nil }
    for (index, sector) in request.sectors.enumerated() {
      let range = sector * sectorSize..<(sector + 1) * sectorSize
      let found = disk[range]
      let isOld = found.elementsEqual(before[index * sectorSize..<(index + 1) * sectorSize])
      guard isOld || mayBeDone && found.elementsEqual(bytes[range]) else {
        return "sector \(sector) of a failed \(request.operation) is neither what it was nor what it was to be"
      }
      bytes.replaceSubrange(range, with: found)
    }
    return nil
  }

  private mutating func pieces(of sectorCount: Int) throws -> ScatteredMemory {
    var pieces: [Int] = []
    var rest = sectorCount
    while rest > 0 {
      let piece = Int.random(in: 1...max(1, min(rest, 16)), using: &generator)
      pieces.append(piece * sectorSize)
      rest -= piece
    }
    return try ScatteredMemory(pieces: pieces)
  }
}
