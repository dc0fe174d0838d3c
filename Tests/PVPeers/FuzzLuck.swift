// SPDX-License-Identifier: MIT

import PVTestSupport

/// Changes to a fuzzer's input that the input itself decides.
public struct FuzzLuck {
  private var random: SeededGenerator
  private static let telling: [UInt8] = [0, 1, 2, 7, 8, 15, 16, 0x7F, 0x80, 0xFE, 0xFF]

  /// Luck that is always the same for the same bytes.
  public init(_ bytes: [UInt8]) {
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    for byte in bytes { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
    random = SeededGenerator(seed: hash)
  }

  /// Makes the same bytes but for one to four changes.
  public mutating func change(_ bytes: [UInt8], into changed: inout [UInt8]) {
    changed.removeAll(keepingCapacity: true)
    changed.append(contentsOf: bytes)
    var luck = random.next()
    for _ in 0...(luck & 3) {
      luck = random.next()
      let value = UInt8(truncatingIfNeeded: luck >> 8)
      let place = changed.isEmpty ? 0 : Int(luck >> 32) % changed.count
      switch changed.isEmpty ? 6 : luck & 7 {
      case 0, 1: changed[place] = value
      case 2: changed[place] ^= 1 << (value & 7)
      case 3: changed[place] &+= value & 1 == 0 ? (value >> 4) &+ 1 : 0 &- (value >> 4) &- 1
      case 4: changed[place] = Self.telling[Int(value) % Self.telling.count]
      case 5: changed.remove(at: place)
      case 6: changed.insert(value, at: place)
      default: changed.swapAt(place, Int(value) % changed.count)
      }
    }
  }
}
