// SPDX-License-Identifier: MIT

import ArgumentParser
import CLinux
import Glibc
import Lab
import PVMachine

/// `pvdisk lab`: the problems of the overhaul thread, each an experiment.
struct LabCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "lab", abstract: "Run the experiments on the block protocol: problems A to J, and what Linux shipped.",
    discussion: """
      Each prints the claim, the conditions, a table and what came out, also where the claim is wrong. Figures are medians
      of runs taken by turns, with the least and the most. Let nothing else run meanwhile.
      """)

  @Argument(help: ArgumentHelp("A to J, features, or all (the default).", valueName: "experiment"))
  var experiments: [String] = []

  @Flag(name: .customLong("list"), help: "Name the experiments and their claims.")
  var isList = false

  @Flag(name: .customLong("json"), help: "Print JSON.")
  var isJSON = false

  @Option(name: .customLong("svg"), help: ArgumentHelp("Write the plots into this directory.", valueName: "dir"))
  var pictures: String?

  @Option(help: ArgumentHelp("Write one page with text, tables, plots and drawings.", valueName: "file"))
  var report: String?

  @Flag(name: .customLong("quick"), help: "Run everything in a few seconds, for its shape; no figure means anything.")
  var isQuick = false

  @Option(help: ArgumentHelp("Runs of each row.", valueName: "N"))
  var repeats: Int?

  @Option(help: ArgumentHelp("Milliseconds of each run.", valueName: "N"))
  var milliseconds: Int?

  func validate() throws {
    if let repeats, !(1...1000).contains(repeats) { throw ValidationError("--repeats is 1 to 1000, not \(repeats)") }
    if let milliseconds, !(1...60_000).contains(milliseconds) {
      throw ValidationError("--milliseconds is 1 to 60000, not \(milliseconds)")
    }
  }

  func run() throws {
    let chosen = try chosenExperiments()
    if isList { return list(chosen) }
    var effort = isQuick ? LabEffort.quick : LabEffort.full
    if let repeats { effort.repeats = repeats }
    if let milliseconds { effort.duration = UInt64(milliseconds) * 1_000_000 }
    if let pictures, unsafe access(pictures, W_OK) != 0 {
      throw Refusal("cannot write into \(pictures): \(Refusal.reason); make the directory first")
    }
    var records: [LabRecord] = []
    for experiment in chosen {
      if !isJSON, isatty(2) == 1 { say("pvdisk: experiment \(experiment.name) ...") }
      do throws(MachineError) {
        records.append(try experiment.run(effort))
      } catch { throw Refusal("experiment \(experiment.name) could not run: \(error.sentence)") }
      if !isJSON, let record = records.last { print((records.count > 1 ? "\n\n" : "") + record.text) }
    }
    let machine = LabMachine.here(command: (["pvdisk"] + CommandLine.arguments.dropFirst()).joined(separator: " "))
    if isJSON {
      print(json(LabReport(records, machine: machine, effort: effort)))
    } else {
      print("\n\(machine.sentence)")
    }
    if let pictures {
      for picture in records.flatMap(\.pictures) { try writeText(picture.svg, to: "\(pictures)/\(picture.name)") }
    }
    if let report { try writeText(LabPage(records, machine: machine, effort: effort).html, to: report) }
  }

  private func chosenExperiments() throws -> [Experiment] {
    if experiments.isEmpty || experiments.map({ $0.lowercased() }) == ["all"] { return Experiment.all }
    return try experiments.map { name in
      guard let experiment = Experiment.named(name) else {
        let known = Experiment.all.map(\.name).joined(separator: ", ")
        throw ValidationError("There is no experiment '\(name)'; there are \(known) and all")
      }
      return experiment
    }
  }

  private func list(_ chosen: [Experiment]) {
    if isJSON {
      return print(json(chosen.map { ["name": $0.name, "title": $0.title, "claim": $0.claim] }))
    }
    for experiment in chosen {
      print("\(experiment.name.padding(toWidth: 10))\(experiment.title)\n          \(experiment.claim)")
    }
  }
}

extension LabMachine {
  /// This machine, now.
  static func here(command: String) -> LabMachine {
    let lines = (readText("/proc/cpuinfo") ?? "").split(separator: "\n")
    let model = lines.first { $0.hasPrefix("model name") }?.split(separator: ":").last
    var now = time(nil)
    var parts = unsafe tm()
    unsafe gmtime_r(&now, &parts)
    func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
    return LabMachine(
      processor: model.map { $0.drop { $0 == " " } }.map(String.init) ?? "unknown processor",
      cpus: Int(pv_cpu_count()),
      kernel: readText("/proc/sys/kernel/osrelease")?.split(separator: "\n").first.map(String.init) ?? "",
      date: unsafe "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))", command: command,
      load: readText("/proc/loadavg")?.split(separator: " ").first.map(String.init) ?? "unknown")
  }
}

/// Replaces a file by a text.
func writeText(_ text: String, to path: String) throws {
  guard let file = unsafe fopen(path, "w") else { throw Refusal("cannot write \(path): \(Refusal.reason)") }
  let count = unsafe fwrite(text, 1, text.utf8.count, file)
  guard unsafe fclose(file) == 0, count == text.utf8.count else {
    throw Refusal("cannot write \(path): \(Refusal.reason)")
  }
}
