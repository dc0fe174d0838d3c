// SPDX-License-Identifier: MIT

import Figures

/// Experiments for programs: what `pvdisk lab --json` prints.
public struct LabReport: Codable, Equatable, Sendable {
  /// One experiment.
  public struct Entry: Codable, Equatable, Sendable {
    /// `A` to `J`, or a word.
    public var name: String
    /// What it is about.
    public var title: String
    /// What was claimed.
    public var claim: String
    /// What was held fixed.
    public var parameters: [String: String]
    /// The numbers.
    public var tables: [LabTable]
    /// What came out.
    public var outcome: [String]
    /// Where the seeds were wrong.
    public var corrections: [String]
  }

  /// The machine that it ran on.
  public var machine: LabMachine
  /// Whether only the shape of the results matters.
  public var isQuick: Bool
  /// The experiments.
  public var experiments: [Entry]

  /// Takes records.
  public init(_ records: [LabRecord], machine: LabMachine, effort: LabEffort) {
    self.machine = machine
    isQuick = effort.isQuick
    experiments = records.map { record in
      Entry(
        name: record.name, title: record.title, claim: record.claim,
        parameters: Dictionary(record.findings.parameters.map { ($0.name, $0.value) }) { first, _ in first },
        tables: record.findings.tables, outcome: record.findings.outcome, corrections: record.findings.corrections)
    }
  }
}

/// What a figure says of the machine it was made on.
public struct LabMachine: Codable, Equatable, Sendable {
  /// The processor's name.
  public var processor: String
  /// CPUs that this process may use.
  public var cpus: Int
  /// The kernel's version.
  public var kernel: String
  /// The day, in UTC.
  public var date: String
  /// The command.
  public var command: String
  /// The load average of the last minute when it ended: well above 1 where other things ran beside it.
  public var load: String

  /// Describes a machine.
  public init(processor: String, cpus: Int, kernel: String, date: String, command: String, load: String) {
    self.processor = processor
    self.cpus = cpus
    self.kernel = kernel
    self.date = date
    self.command = command
    self.load = load
  }

  /// One line for people.
  public var sentence: String { "\(date), \(processor), \(cpus) CPUs, Linux \(kernel), load \(load): \(command)" }
}

extension LabRecord {
  /// The record's pictures by file name.
  public var pictures: [(name: String, svg: String)] {
    let plots = findings.plots.enumerated().map { ("lab-\(name)-\($0.offset + 1).svg", $0.element.svg) }
    let rings = findings.rings.enumerated().map { ("lab-\(name)-ring-\($0.offset + 1).svg", $0.element.svg) }
    return plots + rings
  }
}
