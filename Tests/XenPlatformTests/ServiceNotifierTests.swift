// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import Testing
import XenBackend

@Suite("Telling the service manager")
struct ServiceNotifierTests {
  /// A manager's socket.
  final class Manager {
    let descriptor: CInt
    let path: String

    init(path: String) throws {
      self.path = path
      descriptor = socket(AF_UNIX, CInt(SOCK_DGRAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
      var address = sockaddr_un()
      address.sun_family = sa_family_t(AF_UNIX)
      let name = path.hasPrefix("@") ? [0] + path.utf8.dropFirst() : Array(path.utf8) + [0]
      unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: name) }
      let length = socklen_t(MemoryLayout<sa_family_t>.size + name.count)
      let code = unsafe withUnsafePointer(to: address) { pointer in
        unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe bind(descriptor, $0, length) }
      }
      try #require(code == 0)
    }

    deinit {
      close(descriptor)
      unsafe _ = unlink(path)
    }

    func message() -> String? {
      var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
      guard unsafe poll(&entry, 1, 5000) == 1 else { return nil }
      var bytes = [UInt8](repeating: 0, count: 512)
      let count = unsafe recv(descriptor, &bytes, bytes.count, 0)
      return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
    }
  }

  static func environment(_ values: [String: String]) -> (String) -> String? { { values[$0] } }

  @Test(
    "each message is one datagram in systemd's words",
    arguments: ["/tmp/pvdisk-notify-\(getpid())", "@pvdisk-notify-\(getpid())"])
  func messages(path: String) throws {
    let manager = try Manager(path: path)
    let notifier = try #require(ServiceNotifier(environment: Self.environment(["NOTIFY_SOCKET": path])))
    #expect(notifier.watchdogMilliseconds == nil)
    notifier.ready("serving 2 disks\nREADY=0")
    #expect(manager.message() == "READY=1\nMAINPID=\(getpid())\nSTATUS=serving 2 disks READY=0")
    notifier.status("serving 1 disk")
    #expect(manager.message() == "STATUS=serving 1 disk")
    notifier.alive()
    #expect(manager.message() == "WATCHDOG=1")
    notifier.stopping()
    #expect(manager.message() == "STOPPING=1")
  }

  @Test("nobody is told where nobody asks, and a manager that is gone does no harm")
  func nobody() throws {
    #expect(ServiceNotifier(environment: Self.environment([:])) == nil)
    #expect(ServiceNotifier(environment: Self.environment(["NOTIFY_SOCKET": ""])) == nil)
    #expect(ServiceNotifier(environment: Self.environment(["NOTIFY_SOCKET": "relative"])) == nil)
    let long = "/" + String(repeating: "x", count: 200)
    #expect(ServiceNotifier(environment: Self.environment(["NOTIFY_SOCKET": long])) == nil)
    let gone = try #require(ServiceNotifier(environment: Self.environment(["NOTIFY_SOCKET": "/nowhere/at/all"])))
    gone.ready("nobody hears it")
  }

  @Test("the watchdog is fed as often as it wants, if this process is the one that it watches")
  func watchdog() throws {
    func interval(_ values: [String: String]) -> Int? {
      let all = values.merging(["NOTIFY_SOCKET": "/x"]) { $1 }
      return ServiceNotifier(environment: Self.environment(all))?.watchdogMilliseconds
    }
    #expect(interval(["WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "\(getpid())"]) == 3000)
    #expect(interval(["WATCHDOG_USEC": "3000000"]) == 3000)
    #expect(interval(["WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"]) == nil)
    #expect(interval(["WATCHDOG_USEC": "soon"]) == nil)
  }
}
