// SPDX-License-Identifier: MIT

/// A disk's number and name (xen-vbd-interface(7)).
///
/// ```
/// xvd, disk and partition <= 15   202 << 8 | disk << 4 | partition
/// xvd otherwise                   1 << 28  | disk << 8 | partition
/// hd a, b                         3 << 8   | disk << 6 | partition       hd c, d   22 << 8 | (disk - 2) << 6 | partition
/// sd a..p                         8 << 8   | disk << 4 | partition
/// ```
public struct VirtualDevice: Hashable, Sendable {
  /// The number, as it stands in `virtual-device` and in the folders' names.
  public let number: UInt32
  /// The name that it was made from, or the one that its number means.
  public let name: String

  /// Takes a name (`xvda`, `xvdb3`, `hda1`, `sdc`, `d1p2`) or a number in decimal, hexadecimal or octal.
  ///
  /// Partition 0 is written by leaving it out.
  public init?(_ text: String) {
    if let number = Self.number(fromDigits: text) {
      self.number = number
      name = Self.name(of: number) ?? text
    } else if let number = Self.number(fromName: text) {
      self.number = number
      name = text
    } else {
      return nil
    }
  }

  /// The whole xvd disk of an index, from 0: xvda, ..., xvdz, xvdaa, ...; nil from 2^20 on.
  public init?(disk index: UInt32) {
    guard let number = Self.xvd(disk: index, partition: 0) else { return nil }
    self.number = number
    name = "xvd" + Self.letters(index)
  }

  /// Names of the same device are equal: `xvda`, `d0p0` and `51712`.
  public static func == (left: VirtualDevice, right: VirtualDevice) -> Bool { left.number == right.number }
  /// What is equal hashes alike.
  public func hash(into hasher: inout Hasher) { hasher.combine(number) }

  /// The low 16 bits of the number: the `handle` of requests.
  public var handle: UInt16 { UInt16(truncatingIfNeeded: number) }

  private static func number(fromDigits text: String) -> UInt32? {
    if text.hasPrefix("0x") || text.hasPrefix("0X") { return UInt32(text.dropFirst(2), radix: 16) }
    if text.count > 1, text.hasPrefix("0") { return UInt32(text, radix: 8) }
    return UInt32(text)
  }

  private static func number(fromName text: String) -> UInt32? {
    if text.hasPrefix("xvd"), let (disk, partition) = lettersAndDigits(text.dropFirst(3)) {
      return xvd(disk: disk, partition: partition)
    }
    if text.hasPrefix("hd"), let (disk, partition) = lettersAndDigits(text.dropFirst(2)), disk < 4, partition < 64 {
      return (disk < 2 ? 3 : 22) << 8 | (disk & 1) << 6 | partition
    }
    if text.hasPrefix("sd"), let (disk, partition) = lettersAndDigits(text.dropFirst(2)), disk < 16, partition < 16 {
      return 8 << 8 | disk << 4 | partition
    }
    if text.hasPrefix("d"), let middle = text.firstIndex(of: "p"),
      let disk = plainNumber(text[text.index(after: text.startIndex)..<middle]),
      let partition = plainNumber(text[text.index(after: middle)...])
    {
      return xvd(disk: disk, partition: partition)
    }
    return nil
  }

  private static func xvd(disk: UInt32, partition: UInt32) -> UInt32? {
    guard disk < 1 << 20, partition < 256 else { return nil }
    return disk <= 15 && partition <= 15 ? 202 << 8 | disk << 4 | partition : 1 << 28 | disk << 8 | partition
  }

  /// Letters count in bijective base 26; digits, if any, are a partition from 1 without leading zeros.
  private static func lettersAndDigits(_ text: Substring) -> (UInt32, UInt32)? {
    let letters = text.prefix { ("a"..."z").contains($0) }
    let digits = text.dropFirst(letters.count)
    guard !letters.isEmpty, letters.count <= 5 else { return nil }
    var disk: UInt32 = 0
    for byte in letters.utf8 { disk = disk * 26 + UInt32(byte - 0x60) }
    if digits.isEmpty { return (disk - 1, 0) }
    guard let partition = plainNumber(digits), partition > 0 else { return nil }
    return (disk - 1, partition)
  }

  private static func plainNumber(_ text: Substring) -> UInt32? {
    guard !text.isEmpty, text.count == 1 || !text.hasPrefix("0"), text.allSatisfy({ ("0"..."9").contains($0) }) else {
      return nil
    }
    return UInt32(text)
  }

  /// The xvd, hd or sd name of a number; nil for numbers that name nothing.
  public static func name(of number: UInt32) -> String? {
    let minor = number & 0xFF
    switch number >> 8 {
    case 202: return "xvd" + letters(minor >> 4) + digits(minor & 15)
    case 8: return "sd" + letters(minor >> 4) + digits(minor & 15)
    case 3 where minor < 128: return "hd" + letters(minor >> 6) + digits(minor & 63)
    case 22 where minor < 128: return "hd" + letters(2 + minor >> 6) + digits(minor & 63)
    default:
      guard number >> 28 == 1 else { return nil }
      return "xvd" + letters((number & 0x0FFF_FFFF) >> 8) + digits(minor)
    }
  }

  private static func digits(_ partition: UInt32) -> String { partition == 0 ? "" : "\(partition)" }

  private static func letters(_ disk: UInt32) -> String {
    var rest = disk + 1
    var text = ""
    while rest > 0 {
      rest -= 1
      text = String(UnicodeScalar(UInt8(0x61 + rest % 26))) + text
      rest /= 26
    }
    return text
  }
}
