// SPDX-License-Identifier: MIT

/// The colours of ring drawings: blue is the front, orange the back, green what lies well, red what straddles.
enum RingColours {
  static let front = "#2f6fde"
  static let back = "#e8833a"
  static let both = "#9b3fb5"
  static let ground = "#f1f4f8"
  static let rule = "#c9d2dd"
  static let text = "#1f2933"
  static let faint = "#7b8794"
  static let response = "#f6b98a"
  /// Two shades each, by turns, of slots on as few lines as they need, and of the others.
  static let fitting = ["#a8d5b5", "#c2e2ca"]
  static let straddling = ["#f3a6a6", "#f8c1c1"]
}

extension RingPicture {
  /// The drawing to scale: a row is a cache line, its width the line's bytes.
  public var svg: String {
    let columns = areas.map { AreaColumn($0) }
    let left = 18.0
    let width = columns.map(\.width).reduce(0, +) + 2 * left
    let top = 92.0
    let height = top + (columns.map(\.height).max() ?? 0) + (areas.count == 1 ? 68 : 50)
    var drawing = SVGDrawing(width: width, height: height, label: title)
    drawing.text(title, x: left, y: 30, size: 18, isBold: true)
    for (index, line) in summary.enumerated() {
      drawing.text(line, x: left, y: 52 + Double(index) * 18, size: 12.5, fill: RingColours.faint)
    }
    var x = left
    for column in columns {
      column.draw(in: &drawing, x: x, y: top)
      x += column.width
    }
    legend(in: &drawing, x: left, y: height - 24)
    return drawing.document
  }

  private func legend(in drawing: inout SVGDrawing, x: Double, y: Double) {
    let entries: [(String, String)] = [
      (RingColours.front, "front stores"), (RingColours.back, "back stores"),
      (RingColours.both, "both store: the line travels"), (RingColours.fitting[0], "slot on as few lines as it needs"),
      (RingColours.straddling[0], "slot on one line more"), (RingColours.response, "response"),
    ]
    let isNarrow = areas.count == 1
    let start = x
    var x = x
    var y = isNarrow ? y - 18 : y
    for (index, (colour, name)) in entries.enumerated() {
      if isNarrow, index == 3 {
        x = start
        y += 18
      }
      drawing.rectangle(x: x, y: y - 10, width: 12, height: 12, fill: colour, radius: 2)
      drawing.text(name, x: x + 17, y: y, size: 11.5)
      x += 30 + Double(name.count) * 6.0
    }
  }
}

/// One area of a drawing with its scales.
private struct AreaColumn {
  let area: RingArea
  let scale: Double
  let row = 13.0
  let gutter = 74.0
  let margin = 92.0
  let head = 96.0

  init(_ area: RingArea) {
    self.area = area
    scale = 512.0 / Double(area.lineSize)
  }

  var width: Double { gutter + Double(area.lineSize) * scale + margin }
  var pageGap: Double { 10 }
  var height: Double { head + Double(area.lineCount) * row + Double(area.pages - 1) * pageGap }

  func top(_ line: Int, _ y: Double) -> Double {
    y + head + Double(line) * row + Double(line * area.lineSize / 4096) * pageGap
  }

  func draw(in drawing: inout SVGDrawing, x: Double, y: Double) {
    drawing.text(
      "\(area.name), \(area.pages == 1 ? "1 page" : "\(area.pages) pages")", x: x, y: y + 12, size: 14, isBold: true)
    for (index, line) in area.summary.prefix(4).enumerated() {
      drawing.text(line, x: x, y: y + 28 + Double(index) * 13.5, size: 10.5, fill: RingColours.faint, isFixed: true)
    }
    let left = x + gutter
    drawing.text("line", x: left - 44, y: y + head - 5, size: 9.5, fill: RingColours.faint, anchor: .end)
    drawing.text("byte", x: left - 8, y: y + head - 5, size: 9.5, fill: RingColours.faint, anchor: .end)
    for byte in stride(from: 0, through: area.lineSize, by: 8) {
      drawing.text(
        "\(byte)", x: left + Double(byte) * scale, y: y + head - 5, size: 9.5, fill: RingColours.faint, anchor: .middle)
    }
    for line in 0..<area.lineCount { row(line, in: &drawing, left: left, y: y) }
    for slot in 0..<area.slotCount { draw(slot: slot, in: &drawing, left: left, y: y) }
    for (index, word) in area.words.enumerated() { draw(word, index, in: &drawing, left: left, y: y) }
    for byte in stride(from: 8, to: area.lineSize, by: 8) {
      let place = left + Double(byte) * scale
      drawing.line(
        place, y + head, place, y + height, stroke: byte % 64 == 0 ? "#8fa1b5" : "#ffffff",
        width: byte % 64 == 0 ? 1 : 0.5)
    }
  }

  private func row(_ line: Int, in drawing: inout SVGDrawing, left: Double, y: Double) {
    let top = top(line, y)
    let right = left + Double(area.lineSize) * scale
    drawing.rectangle(
      x: left, y: top, width: Double(area.lineSize) * scale, height: row - 1, fill: RingColours.ground)
    drawing.text("\(line)", x: left - 44, y: top + 9.5, size: 9, fill: RingColours.faint, anchor: .end, isFixed: true)
    drawing.text(
      "\(line * area.lineSize)", x: left - 8, y: top + 9.5, size: 9, fill: RingColours.faint, anchor: .end,
      isFixed: true)
    let writers = area.writers(ofLine: line)
    let colour =
      switch writers {
      case [.front, .back]: RingColours.both
      case .front: RingColours.front
      case .back: RingColours.back
      default: RingColours.rule
      }
    drawing.rectangle(
      x: right + 8, y: top, width: 26, height: row - 1, fill: colour, radius: 2, title: "line \(line)")
    drawing.text(
      writers.isEmpty ? "-" : writers.letters, x: right + 21, y: top + 9.5, size: 9, fill: "#ffffff", anchor: .middle,
      isBold: true)
  }

  private func draw(slot: Int, in drawing: inout SVGDrawing, left: Double, y: Double) {
    let straddles = area.straddles(slot)
    let shades = straddles ? RingColours.straddling : RingColours.fitting
    let count = area.linesTouched(bySlot: slot)
    let title =
      "slot \(slot): bytes \(area.offset(ofSlot: slot)) to "
      + "\(area.offset(ofSlot: slot) + area.slotSize - 1), \(count) line\(count == 1 ? "" : "s")"
    let start = area.offset(ofSlot: slot)
    run(start, area.slotSize, shades[slot % 2], title, in: &drawing, left: left, y: y)
    if area.responseSize > 0, area.responseSize < area.slotSize {
      run(start, area.responseSize, RingColours.response, title, in: &drawing, left: left, y: y)
    } else if area.responseSize > 0 {
      run(start, area.slotSize, slot % 2 == 0 ? RingColours.response : "#fad2b3", title, in: &drawing, left: left, y: y)
    }
    let line = start / area.lineSize
    let place = left + Double(start % area.lineSize) * scale
    drawing.line(place, top(line, y), place, top(line, y) + row - 1, stroke: "#52606d", width: 1)
    if Double(area.slotSize) * scale >= 30 {
      drawing.text("\(slot)", x: place + 3, y: top(line, y) + 9.5, size: 9, fill: RingColours.text, isFixed: true)
    }
  }

  private func draw(_ word: RingArea.Word, _ index: Int, in drawing: inout SVGDrawing, left: Double, y: Double) {
    let line = word.offset / area.lineSize
    let place = left + Double(word.offset % area.lineSize) * scale
    let colour = word.writer == .front ? RingColours.front : RingColours.back
    drawing.rectangle(
      x: place, y: top(line, y), width: Double(RingArea.Word.byteCount) * scale - 1, height: row - 1, fill: colour,
      title: "\(word.name), bytes \(word.offset) to \(word.offset + 3)")
    let parts = word.name.split(separator: " ")
    let short = (parts[0] == "request" ? "req" : "rsp") + parts[1].prefix(1).uppercased()
    if scale * 4 >= 22 {
      drawing.text(
        short, x: place + scale * 2, y: top(line, y) + 9, size: 8, fill: "#ffffff", anchor: .middle, isBold: true)
    }
  }

  /// Fills a run of bytes, which may go over several lines.
  private func run(
    _ start: Int, _ count: Int, _ colour: String, _ title: String, in drawing: inout SVGDrawing, left: Double, y: Double
  ) {
    var offset = start
    while offset < start + count {
      let line = offset / area.lineSize
      let end = min(start + count, (line + 1) * area.lineSize)
      drawing.rectangle(
        x: left + Double(offset % area.lineSize) * scale, y: top(line, y), width: Double(end - offset) * scale,
        height: row - 1, fill: colour, title: title)
      offset = end
    }
  }
}
