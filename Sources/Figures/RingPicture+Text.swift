// SPDX-License-Identifier: MIT

extension RingPicture {
  /// The drawing as text: a line of text is a cache line, a character is a byte.
  public var text: String {
    var lines = [title, ""]
    lines += summary.map { "  \($0)" }
    for area in areas {
      lines += ["", "\(area.name), \(area.pages == 1 ? "1 page" : "\(area.pages) pages")"]
      lines += area.summary.map { "  \($0)" }
      lines += [""] + area.drawing
    }
    lines += ["", RingPicture.legend]
    return lines.joined(separator: "\n")
  }

  /// What the ring can carry, in sentences.
  public var summary: [String] {
    [
      "a request names \(directSegments) pages in its slot (\(RingPicture.size(directBytes)))"
        + (mostSegments > directSegments ? ", \(mostSegments) in all (\(RingPicture.size(mostBytes)))" : ""),
      "\(requestSlots) requests in flight, \(RingPicture.size(bytesInFlight)) of data",
    ]
  }

  static let legend = """
    P E   producer and event of requests       p e c  producer, event and consumer of responses
    [n==  slot n as far as a response covers    --     the request alone       ..  nobody
    who   F the front stores to the line, B the back; FB: the line has to travel
    """

  /// A size for people: whole units where they are exact.
  static func size(_ bytes: Int) -> String {
    if bytes >= 1 << 20, bytes % (1 << 20) == 0 { return "\(bytes >> 20) MiB" }
    if bytes >= 1 << 10, bytes % (1 << 10) == 0 { return "\(bytes >> 10) KiB" }
    return "\(bytes) bytes"
  }
}

extension RingArea {
  /// Slots, lines and waste, in sentences.
  public var summary: [String] {
    var lines = [
      "slots    \(fit) of \(slotSize) bytes fit, \(slotCount) are used"
        + (responseSize > 0 && requestSize > 0 ? "; a response covers \(responseSize) bytes of one" : "")
    ]
    let counts = histogram.sorted { $0.key < $1.key }.map { "\($0.value) on \($0.key)" }.joined(separator: ", ")
    lines.append(
      "lines    \(counts); \(RingArea.tenths(averageLines)) on average; \(straddlingSlots) on more than they need")
    lines.append(
      "writers  \(self.lines(writtenBy: .front)) lines front, \(self.lines(writtenBy: .back)) back, "
        + "\(self.lines(writtenBy: [.front, .back])) both, \(self.lines(writtenBy: [])) nobody")
    lines.append("waste    \(wastedBytes) of \(byteCount) bytes, \(tailBytes) of them behind the last slot")
    if !crossingSlots.isEmpty {
      lines.append("pages    crossed by slots \(crossingSlots.map(String.init).joined(separator: ", "))")
    }
    return lines
  }

  static func tenths(_ value: Double) -> String {
    let hundredths = Int((value * 10_000).rounded())
    let rest = String(hundredths % 10_000)
    let digits = String(repeating: "0", count: 4 - rest.count) + rest
    return "\(hundredths / 10_000)" + (hundredths % 10_000 == 0 ? "" : "." + RingArea.trimmed(digits))
  }

  private static func trimmed(_ digits: String) -> String {
    var digits = digits
    while digits.hasSuffix("0") { digits.removeLast() }
    return digits
  }

  /// One line of text for each cache line, with a rule at page boundaries.
  var drawing: [String] {
    let marks = slotLabels
    var lines = [RingArea.row("line", "byte", "who", RingArea.scale(lineSize), "")]
    for line in 0..<lineCount {
      let start = line * lineSize
      if line > 0, start % 4096 == 0 { lines.append(RingArea.row("", "", "", RingArea.rule(lineSize), "")) }
      let bytes = String(String.UnicodeScalarView((start..<start + lineSize).map { marks[$0] }))
      let note = notes(line).joined(separator: " ")
      lines.append(RingArea.row("\(line)", "\(start)", writers(ofLine: line).letters, bytes, note))
    }
    return lines
  }

  /// Which slots that begin on a line straddle more lines than they need.
  private func notes(_ line: Int) -> [String] {
    let first = max(0, (line * lineSize - headerSize + slotSize - 1) / slotSize)
    var notes: [String] = []
    var slot = first
    while slot < slotCount, offset(ofSlot: slot) / lineSize == line {
      if straddles(slot) { notes.append("\(slot) on \(linesTouched(bySlot: slot))") }
      slot += 1
    }
    return notes
  }

  /// A character for each byte.
  private var slotLabels: [Unicode.Scalar] {
    var marks: [Unicode.Scalar] = (0..<byteCount).map { offset in
      switch use(ofByte: offset) {
      case .word(let index): mark(words[index].name)
      case .request: "-"
      case .response: "="
      case .spare, .unused: "."
      }
    }
    for slot in 0..<slotCount {
      let start = offset(ofSlot: slot)
      for (place, scalar) in "[\(slot)".unicodeScalars.enumerated() where place < slotSize - 1 {
        marks[start + place] = scalar
      }
      marks[start + slotSize - 1] = "]"
    }
    return marks
  }

  private func mark(_ name: String) -> Unicode.Scalar {
    switch name {
    case "request producer": "P"
    case "request event": "E"
    case "response producer": "p"
    case "response event": "e"
    default: "c"
    }
  }

  private static func row(_ line: String, _ byte: String, _ who: String, _ bytes: String, _ note: String) -> String {
    let text = left(line, 5) + left(byte, 7) + "  " + who + String(repeating: " ", count: 4 - min(4, who.count)) + bytes
    return note.isEmpty ? text : text + "  " + note
  }

  private static func left(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.count)) + text
  }

  private static func scale(_ lineSize: Int) -> String {
    stride(from: 0, to: lineSize, by: 8).map { place in
      "\(place)" + String(repeating: " ", count: 8 - "\(place)".count)
    }.joined()
  }

  private static func rule(_ lineSize: Int) -> String { String(repeating: "~", count: lineSize) }
}
