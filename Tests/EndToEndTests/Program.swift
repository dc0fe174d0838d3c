// SPDX-License-Identifier: MIT

import Glibc
import Testing

/// What a program left behind when it ended.
struct Outcome: CustomStringConvertible {
  var status: CInt
  var output: String
  var errors: String

  var description: String { "exit status \(status), output: \(output), errors: \(errors)" }
}

/// The command under test, as the build made it, and other people's programs beside it.
enum Program {
  /// The built command: beside the program that runs the tests.
  static let pvdisk: String = {
    var buffer = [UInt8](repeating: 0, count: 4096)
    let count = unsafe buffer.withUnsafeMutableBytes {
      guard let base = $0.baseAddress else { return -1 }
      return unsafe readlink("/proc/self/exe", base.assumingMemoryBound(to: CChar.self), $0.count)
    }
    let own = String(decoding: buffer[..<max(count, 0)], as: UTF8.self)
    return own.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/") + "/pvdisk"
  }()

  /// Seconds that a script may take.
  private static let limitSeconds = 180

  /// Runs a script of the shell, in which `pvdisk` is the command under test.
  /// - Parameter folder: where it runs; what it prints passes through files there.
  static func shell(_ script: String, in folder: String) throws -> Outcome {
    let name = "\(folder)/.run-\(UInt32.random(in: 0 ... .max))"
    defer { for suffix in [".sh", ".out", ".err"] { _ = unsafe unlink(name + suffix) } }
    try Files.write(
      "pvdisk() { '\(pvdisk)' \"$@\"; }\nexport PATH=$PATH:/usr/sbin:/sbin\ncd '\(folder)'\n\(script)\n",
      to: name + ".sh")
    // A script that does not end is a failure like any other, not a suite that stands still.
    let status = unsafe system(
      "timeout -k 5 \(limitSeconds) bash '\(name).sh' >'\(name).out' 2>'\(name).err' </dev/null")
    return Outcome(
      status: status & 0x7F == 0 ? (status >> 8) & 0xFF : -1, output: try Files.text(name + ".out"),
      errors: try Files.text(name + ".err"))
  }

  /// Whether a program is installed.
  static func isInstalled(_ name: String) -> Bool {
    unsafe system("PATH=$PATH:/usr/sbin:/sbin command -v \(name) >/dev/null 2>&1") == 0
  }

  /// Whether this process may use loop devices.
  static let canLoop = geteuid() == 0 && isInstalled("losetup")
}

/// Small files.
enum Files {
  struct Failure: Error, CustomStringConvertible {
    var description: String
  }

  static func write(_ text: String, to path: String) throws {
    guard let file = unsafe fopen(path, "w") else { throw Failure(description: "cannot write \(path)") }
    unsafe fputs(text, file)
    unsafe fclose(file)
  }

  static func text(_ path: String) throws -> String { String(decoding: try bytes(path), as: UTF8.self) }

  static func bytes(_ path: String) throws -> [UInt8] {
    guard let file = unsafe fopen(path, "r") else { throw Failure(description: "cannot read \(path)") }
    defer { unsafe fclose(file) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let count = unsafe fread(&chunk, 1, chunk.count, file)
      if count == 0 { return bytes }
      bytes += chunk[..<count]
    }
  }

  static func exists(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }
}

/// A folder of its own with an image and a mount point in it, all of which goes with the object.
final class Scene {
  let folder: String
  var image: String { "\(folder)/d.img" }
  var point: String { "\(folder)/m" }
  var disk: String { "\(point)/xvda" }

  /// - Parameter size: the image's, as `pvdisk create` takes it; nil makes none.
  init(size: String? = "16M") throws {
    var template = Array("/tmp/pvdisk-e2e-XXXXXX".utf8CString)
    guard unsafe mkdtemp(&template) != nil else { throw Files.Failure(description: "cannot make a folder in /tmp") }
    folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    _ = unsafe chmod(folder, 0o755)
    try ok("mkdir m")
    if let size { try ok("pvdisk create d.img \(size)") }
  }

  deinit {
    // What a test that failed has left: mounts first.
    _ = unsafe system(
      """
      for point in $(grep -o ' \(folder)[^ ]*' /proc/self/mounts | tac); do umount -l $point 2>/dev/null; done
      rm -rf '\(folder)'
      """)
  }

  /// Runs a script in the folder.
  func shell(_ script: String) throws -> Outcome { try Program.shell(script, in: folder) }

  /// Runs a script that must succeed, and answers what it printed.
  @discardableResult
  func ok(_ script: String, sourceLocation: SourceLocation = #_sourceLocation) throws -> String {
    let outcome = try shell("set -e\n" + script)
    try #require(outcome.status == 0, "\(script): \(outcome)", sourceLocation: sourceLocation)
    return outcome.output
  }

  /// Mounts the image, runs `body`, unmounts.
  func mounted<R>(_ options: String = "", _ body: () throws -> R) throws -> R {
    try ok("pvdisk mount --daemonize \(options) d.img m")
    let result = Result { try body() }
    try ok("pvdisk umount m")
    #expect(!isMounted)
    return try result.get()
  }

  /// Whether anything is mounted in the folder.
  var isMounted: Bool { (try? Files.text("/proc/self/mounts"))?.contains(" \(folder)") ?? true }
}
