// SPDX-License-Identifier: MIT

import Dispatch
import Glibc
import Synchronization

/// Who has a disk's file open: loop devices and processes.
enum DiskHolders {
  /// How often, and how far apart in microseconds, a loop device is looked at that is about to go.
  private static let tries = 100, pause: useconds_t = 20_000

  /// Somebody who has the file open and is not about to let go, or nothing.
  ///
  /// The loop device of `mount -o loop` goes at `umount`, unless somebody else looks at it just then, as udev and `btrfs` look
  /// at all block devices: then it goes when they have closed it, a moment later.
  static func lasting(of file: String, except pid: Int32) -> String? {
    for _ in 0..<tries {
      guard let holder = first(of: file, except: pid) else { return nil }
      guard isLeaving(holder) else { return holder }
      usleep(pause)
    }
    return first(of: file, except: pid)
  }

  /// Whether this is a loop device that goes when nobody has it open, and that is not mounted.
  private static func isLeaving(_ holder: String) -> Bool {
    guard holder.hasPrefix("/dev/loop"), let name = holder.split(separator: "/").last,
      readText("/sys/block/\(name)/loop/autoclear")?.first == "1"
    else { return false }
    return !MountTable.all().contains { $0.source == holder || $0.source.hasPrefix(holder + "p") }
  }

  /// Somebody who has the file open, or nothing.
  static func first(of file: String, except pid: Int32) -> String? {
    for name in DirectoryListing.names(in: "/sys/block") where name.hasPrefix("loop") {
      let backing = readText("/sys/block/\(name)/loop/backing_file")
      if backing?.split(separator: "\n").first.map(String.init) == file { return "/dev/\(name)" }
    }
    let processes = DirectoryListing.names(in: "/proc").compactMap { Int32($0) }.filter { $0 != pid && $0 != getpid() }
    return ProcessSearch(processes, file: file).holder()
  }
}

/// A look through the processes' descriptors that none of them can hold up.
///
/// A process that is just being started keeps whoever looks at its descriptors waiting until it runs, and may itself wait for
/// a file system that does not answer. So a thread looks at one process after the other, and when it does not get on, another
/// takes over behind the process that holds it up. Threads that are left behind end with this command.
private final class ProcessSearch: Sendable {
  /// How long one process may take, in milliseconds, and how many may take too long.
  private static let patience = 200
  private static let mostStuck = 32

  private let processes: [Int32]
  private let file: String
  private let next = Atomic(0)
  private let found = Mutex<String?>(nil)
  private let isOver = DispatchSemaphore(value: 0)

  init(_ processes: [Int32], file: String) {
    self.processes = processes
    self.file = file
  }

  func holder() -> String? {
    for _ in 0..<Self.mostStuck {
      Background.start { [self] in search() }
      var place = next.load(ordering: .acquiring)
      while true {
        if isOver.wait(timeout: .now() + .milliseconds(Self.patience)) == .success { return found.withLock { $0 } }
        let now = next.load(ordering: .acquiring)
        if now == place { break }
        place = now
      }
    }
    return nil
  }

  private func search() {
    while true {
      let place = next.add(1, ordering: .acquiringAndReleasing).oldValue
      guard place < processes.count else { break }
      let process = processes[place]
      let folder = "/proc/\(process)/fd"
      guard DirectoryListing.names(in: folder).contains(where: { DirectoryListing.link("\(folder)/\($0)") == file })
      else { continue }
      let command = readText("/proc/\(process)/comm")?.split(separator: "\n").first ?? "?"
      found.withLock { $0 = "process \(process) (\(command))" }
      break
    }
    isOver.signal()
  }
}

/// Directories and links as the kernel shows them.
private enum DirectoryListing {
  static func names(in path: String) -> [String] {
    guard let directory = unsafe opendir(path) else { return [] }
    defer { unsafe closedir(directory) }
    var names: [String] = []
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafePointer(to: entry.pointee.d_name) {
        unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      if !name.hasPrefix(".") { names.append(name) }
    }
    return names
  }

  static func link(_ path: String) -> String? {
    var buffer = [UInt8](repeating: 0, count: 4096)
    let count = unsafe buffer.withUnsafeMutableBytes {
      guard let base = $0.baseAddress else { return -1 }
      return unsafe readlink(path, base.assumingMemoryBound(to: CChar.self), $0.count)
    }
    return count > 0 ? String(decoding: buffer[..<count], as: UTF8.self) : nil
  }
}
