// SPDX-License-Identifier: MIT

/// A plot: bars by category, or lines over numbers, each point with its spread.
public struct Plot: Equatable, Sendable {
  /// One measured point.
  public struct Point: Equatable, Sendable {
    /// Where it is; in a bar plot the category's number.
    public var x: Double
    /// Its value.
    public var y: Double
    /// The least value that was measured.
    public var least: Double?
    /// The largest value that was measured.
    public var most: Double?

    /// Makes a point.
    public init(x: Double, y: Double, least: Double? = nil, most: Double? = nil) {
      self.x = x
      self.y = y
      self.least = least
      self.most = most
    }
  }

  /// Points that belong together.
  public struct Series: Equatable, Sendable {
    /// What they are.
    public var name: String
    /// The points, in order of x.
    public var points: [Point]

    /// Names points.
    public init(_ name: String, _ points: [Point]) {
      self.name = name
      self.points = points
    }
  }

  /// What it shows.
  public var title: String
  /// What the axis of x is; empty for categories that speak for themselves.
  public var xTitle: String
  /// What the axis of y is, with its unit.
  public var yTitle: String
  /// The categories of a bar plot; empty for lines.
  public var categories: [String]
  /// Whether y is logarithmic.
  public var isLogarithmic = false
  /// The points.
  public var series: [Series]

  /// A plot of lines.
  public init(lines title: String, xTitle: String, yTitle: String, series: [Series]) {
    self.title = title
    self.xTitle = xTitle
    self.yTitle = yTitle
    categories = []
    self.series = series
  }

  /// A plot of bars.
  public init(bars title: String, yTitle: String, categories: [String], series: [Series], isLogarithmic: Bool = false) {
    self.title = title
    xTitle = ""
    self.yTitle = yTitle
    self.categories = categories
    self.series = series
    self.isLogarithmic = isLogarithmic
  }
}
