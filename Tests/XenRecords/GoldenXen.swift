// SPDX-License-Identifier: MIT

import Foundation

/// What Xen 4.17's public headers say of grants, events and the store, as a C program printed it (x86_64).
public struct GoldenXen: Decodable, Sendable {
  /// Structures by name.
  public let layouts: [String: GoldenVectors.Layout]
  /// Constants by group and name.
  public let numbers: [String: [String: Int]]
  /// Encoded store messages in hexadecimal, by name.
  public let images: [String: String]

  /// Reads them.
  public static func load() throws -> GoldenXen {
    try JSONDecoder().decode(GoldenXen.self, from: Data(try Records.bytes("golden-xen.json")))
  }

  /// Where a structure's field begins; -1 when there is none of that name.
  public func offset(_ structure: String, _ field: String) -> Int { layouts[structure]?.fields[field]?.first ?? -1 }

  /// A structure's size in bytes; -1 when there is none of that name.
  public func size(_ structure: String) -> Int { layouts[structure]?.size ?? -1 }

  /// A group of constants.
  public func group(_ name: String) -> [String: Int] { numbers[name] ?? [:] }
}
