// SPDX-License-Identifier: MIT

import ArgumentParser
import Glibc

/// The command.
@main
struct PVDisk: ParsableCommand {
  static let version = "0.1.0"

  static let configuration = CommandConfiguration(
    commandName: "pvdisk",
    abstract: "A Xen paravirtual disk in one ordinary process: shows an image as a file, through a real PV stack.",
    discussion: """
      Exit status: 0 done, 1 usage, 2 environment (no /dev/fuse, no rights), 3 image, 4 a flush failed, 5 a check failed.
      """,
    version: version,
    subcommands: [
      MountCommand.self, UmountCommand.self, AttachCommand.self, DetachCommand.self, ResizeCommand.self,
      SuspendCommand.self, ResumeCommand.self, EjectCommand.self, InsertCommand.self, RunCommand.self,
      CreateCommand.self, StatusCommand.self, TraceCommand.self,
      DoctorCommand.self, BenchCommand.self, LayoutCommand.self, LabCommand.self, XenStoredCommand.self,
      XenStoreCommand.self, BackendCommand.self, FrontendCommand.self,
    ])

  static func main() {
    do {
      let isHelper = MountHelper.isCalled(as: CommandLine.arguments[0])
      var command = try parseAsRoot(isHelper ? MountHelper.arguments(Array(CommandLine.arguments.dropFirst())) : nil)
      try command.run()
    } catch let refusal as Refusal {
      say("pvdisk: \(refusal)")
      Glibc.exit(refusal.status)
    } catch let code as ExitCode {
      Glibc.exit(code.rawValue)
    } catch {
      if exitCode(for: error) == .success { exit(withError: error) }
      say("pvdisk: \(sentence(for: error))")
      Glibc.exit(ExitStatus.usage)
    }
  }

  /// The parser's complaint as one sentence that says where help is.
  private static func sentence(for error: any Error) -> String {
    let text = message(for: error)
    let first = text.split(separator: "\n").first.map(String.init) ?? "wrong usage"
    let bare = first.hasSuffix(".") ? String(first.dropLast()) : first
    let names = configuration.subcommands.compactMap { $0.configuration.commandName }
    let known = CommandLine.arguments.dropFirst().first.flatMap { names.contains($0) ? $0 : nil }
    return "\(bare); see 'pvdisk \(known.map { "\($0) " } ?? "")--help'"
  }
}
