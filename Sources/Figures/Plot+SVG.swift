// SPDX-License-Identifier: MIT

import Glibc

extension Plot {
  private static let colours = ["#2f6fde", "#e8833a", "#3a9d6e", "#9b3fb5", "#c8a028", "#6b7a8c"]

  /// The plot as SVG.
  public var svg: String {
    let frame = PlotFrame(self)
    var drawing = SVGDrawing(width: frame.width, height: frame.height, label: title)
    drawing.text(title, x: 16, y: 24, size: 14, isBold: true)
    frame.axes(of: self, in: &drawing)
    if categories.isEmpty { lines(frame, in: &drawing) } else { bars(frame, in: &drawing) }
    legend(frame, in: &drawing)
    return drawing.document
  }

  private func colour(_ index: Int) -> String { Plot.colours[index % Plot.colours.count] }

  private func lines(_ frame: PlotFrame, in drawing: inout SVGDrawing) {
    for (index, line) in series.enumerated() {
      drawing.polyline(line.points.map { (frame.x($0.x), frame.y($0.y)) }, stroke: colour(index))
      for point in line.points {
        spread(point, at: frame.x(point.x), frame, colour(index), in: &drawing)
        drawing.dot(
          frame.x(point.x), frame.y(point.y), radius: 3.5, fill: colour(index),
          title: "\(line.name): \(SVGDrawing.number(point.y))")
      }
    }
  }

  private func bars(_ frame: PlotFrame, in drawing: inout SVGDrawing) {
    let step = frame.plotWidth / Double(max(categories.count, 1))
    let width = min(step * 0.8 / Double(max(series.count, 1)), 46)
    for (place, bars) in series.enumerated() {
      for point in bars.points {
        let middle = frame.left + step * (point.x + 0.5)
        let x = middle + (Double(place) - Double(series.count) / 2) * width
        let top = frame.y(point.y)
        drawing.rectangle(
          x: x, y: top, width: width - 2, height: max(frame.bottom - top, 0.5), fill: colour(place), radius: 1.5,
          title: "\(bars.name): \(SVGDrawing.number(point.y))")
        spread(point, at: x + width / 2 - 1, frame, "#1f2933", in: &drawing)
      }
    }
  }

  private func spread(
    _ point: Point, at x: Double, _ frame: PlotFrame, _ colour: String, in drawing: inout SVGDrawing
  ) {
    guard let least = point.least, let most = point.most, least < most else { return }
    drawing.line(x, frame.y(least), x, frame.y(min(most, frame.highest)), stroke: colour, width: 1.2)
    for end in [least, most] where end <= frame.highest {
      drawing.line(x - 3, frame.y(end), x + 3, frame.y(end), stroke: colour, width: 1.2)
    }
  }

  private func legend(_ frame: PlotFrame, in drawing: inout SVGDrawing) {
    guard series.count > 1 else { return }
    var x = frame.left
    for (index, line) in series.enumerated() {
      drawing.rectangle(x: x, y: 34, width: 11, height: 11, fill: colour(index), radius: 2)
      drawing.text(line.name, x: x + 16, y: 43.5, size: 11.5)
      x += 34 + Double(line.name.count) * 6.1
    }
  }
}

/// Where a plot's values lie on its picture.
private struct PlotFrame {
  let width = 720.0
  let height: Double
  let left = 76.0
  let top = 58.0
  let bottom: Double
  let xRange: ClosedRange<Double>
  let ticks: [Double]
  let isLogarithmic: Bool

  var right: Double { width - 24 }
  var plotWidth: Double { right - left }
  /// The largest value in the picture.
  var highest: Double { ticks[ticks.count - 1] }

  init(_ plot: Plot) {
    let isTilted = plot.categories.contains { $0.count * plot.categories.count > 92 }
    height = isTilted ? 420 : 340
    bottom = height - (isTilted ? 118 : plot.xTitle.isEmpty ? 40 : 52)
    let xs = plot.series.flatMap { $0.points.map(\.x) }
    let low = xs.min() ?? 0
    xRange = low...max(xs.max() ?? 1, low + 1)
    isLogarithmic = plot.isLogarithmic
    let values = plot.series.flatMap { $0.points.map(\.y) }
    // A spread that leaves the picture by far does not make the values invisible: it is cut off.
    let limit = (values.max() ?? 1) * 1.5
    let ys = plot.series.flatMap { $0.points.flatMap { [$0.y, min($0.most ?? $0.y, limit)] } }
    ticks = isLogarithmic ? PlotFrame.decades(ys) : PlotFrame.steps(to: ys.max() ?? 1)
  }

  func x(_ value: Double) -> Double {
    left + (value - xRange.lowerBound) / (xRange.upperBound - xRange.lowerBound) * (plotWidth - 24) + 12
  }

  func y(_ value: Double) -> Double {
    let low = ticks[0]
    let high = ticks[ticks.count - 1]
    let part =
      isLogarithmic
      ? (log10(max(value, low)) - log10(low)) / (log10(high) - log10(low)) : (value - low) / (high - low)
    return bottom - part * (bottom - top)
  }

  func axes(of plot: Plot, in drawing: inout SVGDrawing) {
    for tick in ticks {
      drawing.line(left, y(tick), right, y(tick), stroke: "#dfe5ec", width: 1)
      drawing.text(PlotFrame.label(tick), x: left - 8, y: y(tick) + 4, size: 11, fill: "#52606d", anchor: .end)
    }
    drawing.line(left, bottom, right, bottom, stroke: "#8fa1b5", width: 1.2)
    drawing.text(
      plot.yTitle, x: 18, y: (top + bottom) / 2, size: 11.5, fill: "#52606d", anchor: .middle, turned: -90)
    if plot.categories.isEmpty {
      let xs = Set(plot.series.flatMap { $0.points.map(\.x) }).sorted()
      for value in xs.count > 14 ? PlotFrame.steps(to: xRange.upperBound) : xs {
        drawing.line(x(value), bottom, x(value), bottom + 4, stroke: "#8fa1b5", width: 1)
        drawing.text(
          PlotFrame.label(value), x: x(value), y: bottom + 17, size: 11, fill: "#52606d", anchor: .middle)
      }
      drawing.text(plot.xTitle, x: (left + right) / 2, y: bottom + 38, size: 11.5, fill: "#52606d", anchor: .middle)
    } else {
      let step = plotWidth / Double(plot.categories.count)
      let isTilted = height > 400
      for (index, category) in plot.categories.enumerated() {
        let middle = left + step * (Double(index) + 0.5)
        drawing.text(
          category, x: middle, y: bottom + 17, size: 11, fill: "#52606d", anchor: isTilted ? .end : .middle,
          turned: isTilted ? -35 : nil)
      }
    }
  }

  /// From 0 to beyond the most, in steps of 1, 2 or 5 times a power of ten.
  static func steps(to most: Double) -> [Double] {
    let most = most > 0 ? most : 1
    let rough = most / 5
    let decade = pow(10, floor(log10(rough)))
    let step = [1, 2, 5, 10].map { $0 * decade }.first { $0 >= rough } ?? rough
    return (0...Int((most / step).rounded(.up))).map { Double($0) * step }
  }

  static func decades(_ values: [Double]) -> [Double] {
    let positive = values.filter { $0 > 0 }
    let low = floor(log10(positive.min() ?? 1))
    let high = max(ceil(log10(positive.max() ?? 10)), low + 1)
    return stride(from: low, through: high, by: 1).map { pow(10, $0) }
  }

  static func label(_ value: Double) -> String {
    if value >= 10_000, value.truncatingRemainder(dividingBy: 1000) == 0, value < 1e6 { return "\(Int(value / 1000))k" }
    if value >= 1e6 { return SVGDrawing.number(value / 1e6) + "M" }
    return SVGDrawing.number(value)
  }
}
