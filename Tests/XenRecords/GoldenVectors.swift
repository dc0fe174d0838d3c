// SPDX-License-Identifier: MIT

import Foundation

/// Layouts, images and truth tables that a C program made from Xen 4.17's public headers.
public struct GoldenVectors: Decodable, Sendable {
  /// Where a C structure's fields are.
  public struct Layout: Decodable, Sendable {
    /// The C `sizeof`.
    public let size: Int
    /// Offset and size of each field.
    public let fields: [String: [Int]]
  }

  /// Which cache lines the slots of a one-page ring touch.
  public struct LineCount: Decodable, Sendable {
    /// Lines touched by each slot that fits.
    public let touched: [Int]
    /// Slots in use.
    public let used: Int
    /// Slots in use by the lines that they touch.
    public let histogram: [String: Int]
    /// Slots that fit by the lines that they touch.
    public let histogramOfFit: [String: Int]
  }

  /// A protection tuple.
  public struct Tuple: Decodable, Sendable {
    /// What the sector's bytes are.
    public let input: String
    /// The T10 protection type.
    public let type: Int
    /// The sector's number.
    public let sector: UInt64
    /// The application tag.
    public let application: UInt16
    /// The eight bytes.
    public let hex: String
  }

  /// Structures by ABI (`x86_64`, `x86_32`) and name.
  public let layouts: [String: [String: Layout]]
  /// Encoded samples in hexadecimal, by ABI and name.
  public let images: [String: [String: String]]
  /// The opcodes, `BLKIF_OP_*`.
  public let operations: [String: UInt8]
  /// The statuses, `BLKIF_RSP_*`.
  public let statuses: [String: Int16]
  /// The bits `VDISK_*`.
  public let diskInfo: [String: UInt32]
  /// The flag `BLKIF_DISCARD_SECURE`.
  public let discardSecure: UInt8
  /// The states, `enum xenbus_state`.
  public let states: [String: Int]
  /// Values of the `protocol` node.
  public let protocols: [String]
  /// Constants of Linux's blkback.
  public let blkback: [String: Int]
  /// Constants of Linux's blkfront.
  public let blkfront: [String: Int]
  /// Slots that fit and slots used, by slot size and pages.
  public let ringEntries: [String: [String: [Int]]]
  /// Slots that cross a page boundary, by slot size and pages.
  public let crossingSlots: [String: [String: [Int]]]
  /// Rows of old producer, new producer, event, whether to notify.
  public let notify: [[UInt32]]
  /// Rows of size, req_prod, req_cons, rsp_prod_pvt, unconsumed, producer overflow, consumer overflow.
  public let unconsumedRequests: [[UInt32]]
  /// Rows of size, req_prod_pvt, rsp_cons, free, full.
  public let freeRequests: [[UInt32]]
  /// Rows of size, rsp_prod, rsp_cons, overflow.
  public let responseOverflow: [[UInt32]]
  /// Rows of req_prod, req_cons, rsp_prod_pvt, req_event before, req_event after, work to do.
  public let finalCheck: [[UInt32]]
  /// Cache lines that slots touch, by slot size and line size.
  public let cacheLines: [String: [String: LineCount]]
  /// Rows of what the bytes are, their CRC-16/T10-DIF, and their Internet checksum.
  public let checksums: [[String]]
  /// Protection tuples of one sector.
  public let tuples: [Tuple]
  /// Offset and size of each field of each form of the proposed 32-byte request.
  public let slim32: [String: [String: [Int]]]
  /// Device numbers by name.
  public let devices: [String: UInt32]
  /// Texts that name no device.
  public let notDevices: [String]

  /// Reads the vectors.
  public static func load() throws -> GoldenVectors {
    try JSONDecoder().decode(GoldenVectors.self, from: Data(try Records.bytes("golden-vectors.json")))
  }

  /// An encoded sample's bytes.
  public func image(_ abi: String, _ name: String) -> [UInt8]? {
    images[abi]?[name].flatMap { bytes(hex: $0) }
  }
}
