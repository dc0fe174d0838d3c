// SPDX-License-Identifier: MIT

/// A picture as SVG text: shapes are appended, numbers have at most two decimals.
public struct SVGDrawing: Sendable {
  /// The picture's width in pixels.
  public let width: Double
  /// The picture's height in pixels.
  public let height: Double
  private var body = ""
  private let label: String

  /// Starts a picture with a white ground; `label` is what a screen reader says.
  public init(width: Double, height: Double, label: String) {
    self.width = width
    self.height = height
    self.label = label
    rectangle(x: 0, y: 0, width: width, height: height, fill: "#ffffff")
  }

  /// The whole document.
  public var document: String {
    let size = "width=\"\(SVGDrawing.number(width))\" height=\"\(SVGDrawing.number(height))\""
    let box = "viewBox=\"0 0 \(SVGDrawing.number(width)) \(SVGDrawing.number(height))\""
    return """
      <svg xmlns="http://www.w3.org/2000/svg" \(size) \(box) role="img" aria-label="\(SVGDrawing.escaped(label))" \
      font-family="Inter, 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif">
      \(body)</svg>

      """
  }

  /// How text stands to its point.
  public enum Anchor: String, Sendable {
    /// It begins there.
    case start
    /// It is centred there.
    case middle
    /// It ends there.
    case end
  }

  /// Appends a rectangle.
  public mutating func rectangle(
    x: Double, y: Double, width: Double, height: Double, fill: String, stroke: String? = nil, radius: Double = 0,
    title: String? = nil
  ) {
    var text = "<rect x=\"\(SVGDrawing.number(x))\" y=\"\(SVGDrawing.number(y))\""
    text += " width=\"\(SVGDrawing.number(width))\" height=\"\(SVGDrawing.number(height))\" fill=\"\(fill)\""
    if radius > 0 { text += " rx=\"\(SVGDrawing.number(radius))\"" }
    if let stroke { text += " stroke=\"\(stroke)\"" }
    body += text + (title.map { "><title>\(SVGDrawing.escaped($0))</title></rect>\n" } ?? "/>\n")
  }

  /// Appends a straight line.
  public mutating func line(
    _ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double, stroke: String, width: Double = 1, dashes: String? = nil
  ) {
    body += "<line x1=\"\(SVGDrawing.number(x1))\" y1=\"\(SVGDrawing.number(y1))\" x2=\"\(SVGDrawing.number(x2))\""
    body += " y2=\"\(SVGDrawing.number(y2))\" stroke=\"\(stroke)\" stroke-width=\"\(SVGDrawing.number(width))\""
    body += (dashes.map { " stroke-dasharray=\"\($0)\"" } ?? "") + "/>\n"
  }

  /// Appends a line through points.
  public mutating func polyline(_ points: [(x: Double, y: Double)], stroke: String, width: Double = 2) {
    let path = points.map { "\(SVGDrawing.number($0.x)),\(SVGDrawing.number($0.y))" }.joined(separator: " ")
    body += "<polyline points=\"\(path)\" fill=\"none\" stroke=\"\(stroke)\""
    body += " stroke-width=\"\(SVGDrawing.number(width))\" stroke-linejoin=\"round\"/>\n"
  }

  /// Appends a dot.
  public mutating func dot(_ x: Double, _ y: Double, radius: Double, fill: String, title: String? = nil) {
    body += "<circle cx=\"\(SVGDrawing.number(x))\" cy=\"\(SVGDrawing.number(y))\" r=\"\(SVGDrawing.number(radius))\""
    body += " fill=\"\(fill)\"" + (title.map { "><title>\(SVGDrawing.escaped($0))</title></circle>\n" } ?? "/>\n")
  }

  /// Appends text.
  public mutating func text(
    _ text: String, x: Double, y: Double, size: Double, fill: String = "#1f2933", anchor: Anchor = .start,
    isBold: Bool = false, isFixed: Bool = false, turned: Double? = nil
  ) {
    body += "<text x=\"\(SVGDrawing.number(x))\" y=\"\(SVGDrawing.number(y))\" font-size=\"\(SVGDrawing.number(size))\""
    body += " fill=\"\(fill)\""
    if anchor != .start { body += " text-anchor=\"\(anchor.rawValue)\"" }
    if isBold { body += " font-weight=\"600\"" }
    if isFixed { body += " font-family=\"'DejaVu Sans Mono', Menlo, Consolas, monospace\"" }
    if let turned {
      body += " transform=\"rotate(\(SVGDrawing.number(turned)) \(SVGDrawing.number(x)) \(SVGDrawing.number(y)))\""
    }
    body += ">\(SVGDrawing.escaped(text))</text>\n"
  }

  /// A number with at most two decimals.
  public static func number(_ value: Double) -> String {
    let hundredths = Int((value * 100).rounded())
    let magnitude = abs(hundredths)
    let whole = "\(hundredths < 0 ? "-" : "")\(magnitude / 100)"
    let rest = magnitude % 100
    if rest == 0 { return whole }
    return rest % 10 == 0 ? "\(whole).\(rest / 10)" : "\(whole).\(rest < 10 ? "0" : "")\(rest)"
  }

  /// Text that may stand in a document.
  public static func escaped(_ text: String) -> String {
    var result = ""
    for character in text {
      switch character {
      case "&": result += "&amp;"
      case "<": result += "&lt;"
      case ">": result += "&gt;"
      case "\"": result += "&quot;"
      default: result.append(character)
      }
    }
    return result
  }
}
