// SPDX-License-Identifier: MIT

public import ArgumentParser
import Figures
public import XenWire

/// `pvdisk layout`: ring memory to scale, with its cache lines.
struct LayoutCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "layout", abstract: "Draw a ring's memory to scale: cache lines, writers, straddling slots, waste.",
    discussion: """
      A row is a cache line. VARIANT is classic, wide, segment-ring, slim64 or slim32; the options combine with it as the
      disk's options of the same names do.
      """)

  @Argument(help: ArgumentHelp("The ring's wire form.", valueName: "variant"))
  var variant = RingVariant.classic

  @Option(help: ArgumentHelp("x86_64, x86_32 or arm.", valueName: "name"))
  var abi = ABIName.x86_64

  @Option(help: ArgumentHelp("Round header and slots up to 64 or 128.", valueName: "bytes"))
  var align: Int?

  @Flag(help: "Requests and responses in rings of their own.")
  var split = false

  @Flag(help: "Split rings with all index words in the first line.")
  var together = false

  @Flag(help: "Use every slot that fits, not a power of two of them.")
  var wholePage = false

  @Option(help: ArgumentHelp("Pages of the ring: 1, 2, 4, 8 or 16.", valueName: "N"))
  var pages = 1

  @Option(help: ArgumentHelp("Segments in a slot of the wide form.", valueName: "N"))
  var segments = 32

  @Flag(help: "Segment ring: entries of six bytes, not eight.")
  var packed = false

  @Option(help: ArgumentHelp("Bytes in a cache line (default: the alignment, or 64).", valueName: "bytes"))
  var line: Int?

  @Flag(name: .customLong("svg"), help: "Print SVG.")
  var isSVG = false

  @Flag(name: .customLong("json"), help: "Print JSON.")
  var isJSON = false

  enum ABIName: String, ExpressibleByArgument, CaseIterable {
    case x86_64, x86_32, arm

    var wire: BlockProtocol {
      switch self {
      case .x86_64: .x86_64
      case .x86_32: .x86_32
      case .arm: .arm
      }
    }
  }

  func run() throws {
    var plan = RingPlan(abi.wire, ringPages: pages)
    plan.variant = variant
    plan.alignment = align ?? 0
    plan.isSplit = split || together
    plan.indexPlacement = together ? .together : .apart
    plan.usesWholePage = wholePage
    plan.segmentsPerRequest = variant == .wide ? segments : plan.segmentsPerRequest
    plan.segmentEntrySize = packed ? 6 : plan.segmentEntrySize
    if packed, variant != .segmentRing { throw ValidationError("--packed is for segment-ring") }
    if let complaint = RingPicture.complaint(plan, lineSize: line) {
      throw ValidationError("This cannot be drawn: \(complaint)")
    }
    let picture = RingPicture(plan, lineSize: line)
    print(isSVG ? picture.svg : isJSON ? json(RingReport(picture)) : picture.text)
  }
}

extension RingVariant: ExpressibleByArgument {}
