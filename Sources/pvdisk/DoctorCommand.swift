// SPDX-License-Identifier: MIT

import ArgumentParser
import Glibc

/// One thing that pvdisk looks at.
struct DoctorFinding: Codable {
  /// What was looked at.
  var name: String
  /// `ok`, `better` (works, could be better) or `missing`.
  var state: String
  /// What was found.
  var finding: String
  /// The command that mends it.
  var remedy: String?
}

/// `pvdisk doctor`: what this machine lacks, and the command that mends it.
struct DoctorCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "doctor", abstract: "Say what this machine lacks for pvdisk, and the command that mends it.",
    discussion: "Exit status 2 when something that pvdisk needs is missing.")

  @Flag(name: .customLong("json"), help: "Print JSON.")
  var isJSON = false

  func run() throws {
    let findings = Self.examine()
    if isJSON {
      print(json(findings))
    } else {
      for finding in findings {
        let mark = finding.state == "ok" ? "ok     " : finding.state == "better" ? "better " : "MISSING"
        print("\(mark)  \(finding.name): \(finding.finding)")
        if let remedy = finding.remedy { print("         \(remedy)") }
      }
    }
    if findings.contains(where: { $0.state == "missing" }) { throw ExitCode(ExitStatus.environment) }
  }

  static func examine() -> [DoctorFinding] {
    [fuseDevice(), fusermount(), otherUsers(), ring(), uring(), descriptors()]
  }

  private static func fuseDevice() -> DoctorFinding {
    let name = "/dev/fuse"
    if unsafe access(name, F_OK) != 0 {
      return DoctorFinding(
        name: name, state: "missing", finding: "the kernel has no FUSE", remedy: "sudo modprobe fuse")
    }
    if unsafe access(name, R_OK | W_OK) != 0 {
      return DoctorFinding(
        name: name, state: "missing", finding: "you may not open it", remedy: "sudo chmod 666 /dev/fuse")
    }
    return DoctorFinding(name: name, state: "ok", finding: "can be opened")
  }

  private static func fusermount() -> DoctorFinding {
    let places = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin"].map { $0 + "/fusermount3" }
    let found = places.first { (path: String) -> Bool in unsafe access(path, X_OK) == 0 }
    guard let found else {
      let isRoot = getuid() == 0
      return DoctorFinding(
        name: "fusermount3", state: isRoot ? "better" : "missing",
        finding: isRoot ? "not installed; only root can mount" : "not installed; only root could mount",
        remedy: "sudo apt-get install fuse3")
    }
    var status = stat()
    _ = unsafe stat(found, &status)
    guard status.st_mode & S_ISUID != 0 || getuid() == 0 else {
      return DoctorFinding(
        name: "fusermount3", state: "missing", finding: "\(found) is not set-user-ID root",
        remedy: "sudo chmod u+s \(found)")
    }
    return DoctorFinding(name: "fusermount3", state: "ok", finding: found)
  }

  private static func otherUsers() -> DoctorFinding {
    let lines = (readText("/etc/fuse.conf") ?? "").split(separator: "\n").map { $0.split(separator: " ").joined() }
    if lines.contains("user_allow_other") || getuid() == 0 {
      return DoctorFinding(name: "allow_other", state: "ok", finding: "may be used with -o allow_other")
    }
    return DoctorFinding(
      name: "allow_other", state: "better", finding: "other users (root too) cannot see your mounts",
      remedy: "echo user_allow_other | sudo tee -a /etc/fuse.conf")
  }

  private static func ring() -> DoctorFinding {
    let parameter = "/sys/module/fuse/parameters/enable_uring"
    guard let value = readText(parameter) else {
      return DoctorFinding(
        name: "fuse-over-io_uring", state: "better", finding: "this kernel does not have it; Linux 6.14 does")
    }
    if value.hasPrefix("Y") || value.hasPrefix("1") {
      return DoctorFinding(name: "fuse-over-io_uring", state: "ok", finding: "on")
    }
    return DoctorFinding(
      name: "fuse-over-io_uring", state: "better",
      finding: "off; mounts are slower without it",
      remedy: "echo Y | sudo tee \(parameter)")
  }

  private static func uring() -> DoctorFinding {
    let value = readText("/proc/sys/kernel/io_uring_disabled")?.prefix(1) ?? "0"
    if value == "0" || (value == "1" && getuid() == 0) {
      return DoctorFinding(name: "io_uring", state: "ok", finding: "can be used")
    }
    return DoctorFinding(
      name: "io_uring", state: "missing", finding: "forbidden on this machine",
      remedy: "sudo sysctl kernel.io_uring_disabled=0")
  }

  private static func descriptors() -> DoctorFinding {
    var limit = rlimit()
    _ = unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    if limit.rlim_cur >= 256 {
      return DoctorFinding(name: "open files", state: "ok", finding: "limit \(limit.rlim_cur)")
    }
    return DoctorFinding(
      name: "open files", state: "better", finding: "limit \(limit.rlim_cur) is low", remedy: "ulimit -n 1024")
  }
}
