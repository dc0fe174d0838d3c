// SPDX-License-Identifier: MIT

public import PVMachine

/// One experiment: a claim, and a way to look whether it holds.
public struct Experiment: Sendable {
  /// `A` to `J` as the overhaul thread numbers its problems, or a word.
  public let name: String
  /// What it is about, in a few words.
  public let title: String
  /// What somebody says, in a sentence.
  public let claim: String
  private let body: @Sendable (LabEffort) throws(MachineError) -> Findings

  init(
    _ name: String, _ title: String, claim: String,
    _ body: @escaping @Sendable (LabEffort) throws(MachineError) -> Findings
  ) {
    self.name = name
    self.title = title
    self.claim = claim
    self.body = body
  }

  /// Runs it.
  public func run(_ effort: LabEffort) throws(MachineError) -> LabRecord {
    LabRecord(name: name, title: title, claim: claim, findings: try body(effort))
  }

  /// All experiments, in order.
  public static let all: [Experiment] = [
    .dataInFlight, .indexLines, .sharedRing, .straddling, .notifications, .largeRequests, .protectionCost, .queues,
    .waste, .conversion, .features,
  ]

  /// The experiment of a name, whatever its case.
  public static func named(_ name: String) -> Experiment? {
    all.first { $0.name.lowercased() == name.lowercased() }
  }
}

/// An experiment that has been run.
public struct LabRecord: Sendable {
  /// The experiment's name.
  public let name: String
  /// What it is about.
  public let title: String
  /// What was claimed.
  public let claim: String
  /// What was found.
  public let findings: Findings
}
