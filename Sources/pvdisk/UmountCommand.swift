// SPDX-License-Identifier: MIT

import ArgumentParser
import Glibc

/// `pvdisk umount`: returns when the image is flushed, closed and unlocked.
struct UmountCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "umount",
    abstract: "Unmount a disk; returns when its image is flushed, closed and unlocked.",
    discussion: "Exit status 4 says that the last flush failed. A mount whose process has died is cleaned up.")

  @Argument(help: ArgumentHelp("The mount point, or the disk's file in it.", valueName: "mountpoint"))
  var mountPoint: String

  @Flag(name: [.short, .long], help: "Do not wait for those who have the disk open: their I/O fails from now on.")
  var force = false

  func run() throws {
    guard let disk = RunningDisks.at(mountPoint) else { return try cleanUp() }
    if !force, let holder = DiskHolders.lasting(of: disk.report.file, except: disk.report.pid) {
      throw Refusal("\(disk.report.file) is in use by \(holder); close it there, or use --force")
    }
    var request = ControlRequest(verb: force ? .stopNow : .stop)
    request.disk = disk.report.file
    let answer: ControlAnswer
    do { answer = try RunningDisks.ask(disk.socket, request) } catch {
      // The process may have died meanwhile, and left its mount.
      if MountTable.entry(at: RunningDisks.lexicallyAbsolute(mountPoint)) != nil { return try cleanUp() }
      throw error
    }
    if let failure = answer.flushFailure {
      throw Refusal("writes to \(disk.report.image) may be lost: \(failure)", status: ExitStatus.flushFailed)
    }
  }

  /// Takes away what a dead process left mounted.
  private func cleanUp() throws {
    let point = RunningDisks.lexicallyAbsolute(mountPoint)
    guard let mount = MountTable.entry(at: point) else {
      throw Refusal("nothing is mounted on \(mountPoint); 'pvdisk status' lists the disks that are")
    }
    guard mount.type.hasPrefix("fuse.pvdisk") else {
      throw Refusal("\(mountPoint) is a mount of type \(mount.type), not one of pvdisk; use umount")
    }
    guard unsafe umount2(point, Int32(MNT_DETACH)) == 0 || Self.fusermount(point) else {
      throw Refusal("cannot unmount \(mountPoint): \(Refusal.reason)")
    }
  }

  private static func fusermount(_ point: String) -> Bool {
    (try? ChildProcess.run(["fusermount3", "-u", "-z", "--", point], environment: [:], isQuiet: true)) == 0
  }
}

/// What is mounted, from /proc/self/mounts.
enum MountTable {
  struct Entry {
    var source: String
    var point: String
    var type: String
  }

  static func entry(at point: String) -> Entry? { all().last { $0.point == point } }

  static func all() -> [Entry] {
    (readText("/proc/self/mounts") ?? "").split(separator: "\n").compactMap { line in
      let fields = line.split(separator: " ").map { unescape(String($0)) }
      return fields.count >= 3 ? Entry(source: fields[0], point: fields[1], type: fields[2]) : nil
    }
  }

  /// `\040` and the like.
  private static func unescape(_ text: String) -> String {
    var bytes: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
      if byte == UInt8(ascii: "\\"), rest.count >= 3,
        let code = UInt8(String(decoding: rest.prefix(3), as: UTF8.self), radix: 8)
      {
        bytes.append(code)
        rest = rest.dropFirst(3)
      } else {
        bytes.append(byte)
      }
    }
    return String(decoding: bytes, as: UTF8.self)
  }
}

/// A small file's text.
func readText(_ path: String) -> String? {
  guard let file = unsafe fopen(path, "re") else { return nil }
  defer { unsafe fclose(file) }
  var bytes: [UInt8] = []
  var chunk = [UInt8](repeating: 0, count: 65536)
  while true {
    let count = unsafe fread(&chunk, 1, chunk.count, file)
    if count == 0 { return String(decoding: bytes, as: UTF8.self) }
    bytes += chunk[..<count]
  }
}
