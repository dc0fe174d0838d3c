// SPDX-License-Identifier: MIT

import CLinux
import Glibc

/// Tells the service manager how a service is doing: datagrams to the socket that `NOTIFY_SOCKET` names (sd_notify(3)).
///
/// Nothing is sent, and nothing is wrong, where no manager asks for it.
public struct ServiceNotifier: Sendable {
  private let address: [UInt8]
  /// How often the manager wants to hear that the service is alive, in milliseconds; nil: not at all.
  public let watchdogMilliseconds: Int?

  /// Reads the environment; nil where nobody wants to be told.
  /// - Parameter environment: gives a variable's value.
  public init?(environment: (String) -> String?) {
    guard let path = environment("NOTIFY_SOCKET"), path.utf8.count > 1, path.hasPrefix("/") || path.hasPrefix("@"),
      path.utf8.count < 107
    else { return nil }
    address = path.hasPrefix("@") ? [0] + path.utf8.dropFirst() : Array(path.utf8) + [0]
    let isMeant = environment("WATCHDOG_PID").map { $0 == "\(getpid())" } ?? true
    let microseconds = environment("WATCHDOG_USEC").flatMap { Int($0) } ?? 0
    watchdogMilliseconds = isMeant && microseconds > 0 ? max(1, microseconds / 1000) : nil
  }

  /// Reads this process's environment.
  public init?() {
    self.init { name in unsafe getenv(name).map { unsafe String(cString: $0) } }
  }

  /// The service can be used.
  public func ready(_ status: String) { send("READY=1\nMAINPID=\(getpid())\nSTATUS=\(Self.line(status))") }
  /// What the service is doing.
  public func status(_ status: String) { send("STATUS=\(Self.line(status))") }
  /// The service ends.
  public func stopping() { send("STOPPING=1") }
  /// The service is alive.
  public func alive() { send("WATCHDOG=1") }

  private static func line(_ text: String) -> String { text.replacing("\n", with: " ") }

  private func send(_ message: String) {
    let socket = Glibc.socket(AF_UNIX, CInt(SOCK_DGRAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
    guard socket >= 0 else { return }
    defer { _ = Glibc.close(socket) }
    var target = sockaddr_un()
    target.sun_family = sa_family_t(AF_UNIX)
    unsafe withUnsafeMutableBytes(of: &target.sun_path) { unsafe $0.copyBytes(from: address) }
    let length = socklen_t(MemoryLayout<sa_family_t>.size + address.count)
    let bytes = Array(message.utf8)
    // SAFETY: the address is a local value, at least `length` bytes long; the message is an array's own bytes.
    _ = unsafe withUnsafePointer(to: target) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { name in
        unsafe bytes.withUnsafeBytes { message in
          unsafe sendto(
            socket, message.baseAddress, message.count, CInt(MSG_DONTWAIT) | CInt(MSG_NOSIGNAL), name,
            length)
        }
      }
    }
  }
}
