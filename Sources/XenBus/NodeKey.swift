// SPDX-License-Identifier: MIT

/// A value that a node's text can mean.
public protocol NodeValue: Sendable {
  /// Reads the text as Linux's drivers do; nil when it makes no sense.
  init?(nodeText: String)
  /// The text to write.
  var nodeText: String { get }
}

/// A node's name with its type, and what its absence means: declared once, in ``FrontendKey`` and ``BackendKey``.
public struct NodeKey<Value: NodeValue>: Sendable {
  /// The name below the device's folder.
  public let name: String
  /// What a missing or senseless node counts as; nil when there is no default.
  public let absent: Value?
  /// Other names under which a peer may have written it.
  public let aliases: [String]

  /// Declares a key.
  public init(_ name: String, absent: Value? = nil, aliases: [String] = []) {
    self.name = name
    self.absent = absent
    self.aliases = aliases
  }

  /// The same key in the folder of one queue of several: `queue-N/name`.
  public func inQueue(_ index: Int) -> NodeKey { NodeKey("queue-\(index)/\(name)", absent: absent) }
}

/// The digits that a C scan of an unsigned number would take: white space is skipped, whatever follows is ignored.
private func scanUnsigned(_ text: String) -> UInt64? {
  var value: UInt64 = 0
  var digits = 0
  for byte in text.utf8.drop(while: { $0 == 0x20 || (0x09...0x0D).contains($0) }) {
    guard (0x30...0x39).contains(byte) else { break }
    let (product, overflow) = value.multipliedReportingOverflow(by: 10)
    let (sum, carry) = product.addingReportingOverflow(UInt64(byte - 0x30))
    if overflow || carry { return nil }
    value = sum
    digits += 1
  }
  return digits > 0 ? value : nil
}

extension UInt32: NodeValue {
  /// Decimal digits at the start of the text.
  public init?(nodeText: String) {
    guard let value = scanUnsigned(nodeText).flatMap(UInt32.init(exactly:)) else { return nil }
    self = value
  }
  /// Decimal.
  public var nodeText: String { "\(self)" }
}

extension UInt64: NodeValue {
  /// Decimal digits at the start of the text.
  public init?(nodeText: String) {
    guard let value = scanUnsigned(nodeText) else { return nil }
    self = value
  }
  /// Decimal.
  public var nodeText: String { "\(self)" }
}

extension Bool: NodeValue {
  /// A number; everything but 0 is true.
  public init?(nodeText: String) {
    guard let value = scanUnsigned(nodeText) else { return nil }
    self = value != 0
  }
  /// `1` or `0`.
  public var nodeText: String { self ? "1" : "0" }
}

extension String: NodeValue {
  /// The text itself.
  public init?(nodeText: String) { self = nodeText }
  /// The text itself.
  public var nodeText: String { self }
}

extension XenbusState: NodeValue {
  /// A number from 0 to 8.
  public init?(nodeText: String) {
    guard let value = scanUnsigned(nodeText).flatMap(Int.init(exactly:)) else { return nil }
    self.init(rawValue: value)
  }
  /// Decimal.
  public var nodeText: String { "\(rawValue)" }
}
