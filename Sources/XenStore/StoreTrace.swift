// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import Synchronization
import XenWire

/// A log of every message, in the text of `xenstored -T` or as one JSON object a line.
///
/// Text: `io: IN 0x1 (d0) 20260102 03:04:05 READ (/a/b )`, NULs shown as blanks, times local; and `obj: CREATE
/// connection 0x1`. JSON: `time` (seconds since 1970, UTC), `direction`, `connection`, `domain`, `type`, `request`,
/// `transaction` and `payload` (bytes outside printable ASCII as `\\u00XX`).
public final class StoreTrace: Sendable {
  /// How lines are written.
  public enum Format: String, Sendable, CaseIterable {
    /// As `xenstored -T` writes them.
    case text
    /// JSON lines.
    case json
  }

  /// Which way a message went.
  enum Direction: String {
    case incoming = "IN"
    case outgoing = "OUT"
  }

  /// What can be switched on and off (`xenstore-control log +io`).
  enum Switch: String, CaseIterable {
    case object = "obj"
    case message = "io"
  }

  private struct Sink {
    var descriptor: CInt
    var path: String
    var isEnabled = true
    var switches: Set<String> = ["obj", "io"]
  }

  private let format: Format
  private let sink: Mutex<Sink>

  /// Opens a trace file for appending; nil when that fails, with the reason in `errno`.
  public init?(path: String, format: Format) {
    let descriptor = Self.open(path)
    guard descriptor >= 0 else { return nil }
    self.format = format
    sink = Mutex(Sink(descriptor: descriptor, path: path))
  }

  deinit { _ = close(sink.withLock { $0.descriptor }) }

  private static func open(_ path: String) -> CInt {
    unsafe pv_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
  }

  /// Goes on in another file, or in the same one after it was moved away; false when it cannot be opened.
  @discardableResult
  public func reopen(path: String? = nil) -> Bool {
    sink.withLock { sink in
      let path = path ?? sink.path
      let descriptor = Self.open(path)
      guard descriptor >= 0 else { return false }
      close(sink.descriptor)
      sink.descriptor = descriptor
      sink.path = path
      return true
    }
  }

  /// Whether anything is written at all.
  var isEnabled: Bool {
    get { sink.withLock { $0.isEnabled } }
    set { sink.withLock { $0.isEnabled = newValue } }
  }

  func isOn(_ item: Switch) -> Bool { sink.withLock { $0.isEnabled && $0.switches.contains(item.rawValue) } }

  func set(_ item: Switch, _ isOn: Bool) {
    sink.withLock { sink in
      if isOn { sink.switches.insert(item.rawValue) } else { sink.switches.remove(item.rawValue) }
    }
  }

  // MARK: Lines

  func message(
    _ direction: Direction, _ connection: UInt64, _ domain: DomainID, _ header: StoreMessageHeader,
    _ payload: ArraySlice<UInt8>
  ) {
    guard isOn(.message) else { return }
    switch format {
    case .text:
      var line = Array(
        "io: \(direction.rawValue) 0x\(String(connection, radix: 16)) (d\(domain)) \(Self.localTime()) \(header.type) ("
          .utf8)
      line.append(contentsOf: payload.lazy.map { $0 == 0 ? 0x20 : $0 })
      line.append(contentsOf: ")\n".utf8)
      write(line)
    case .json:
      write(
        Array(
          """
          {"time":\(Self.unixTime()),"direction":"\(direction.rawValue.lowercased())","connection":\(connection),\
          "domain":\(domain),"type":"\(header.type)","request":\(header.requestID),\
          "transaction":\(header.transactionID),"payload":"\(Self.escaped(payload))"}

          """.utf8))
    }
  }

  func create(_ kind: String, _ number: UInt64) { object("CREATE", kind, number) }
  func destroy(_ kind: String, _ number: UInt64) { object("DESTROY", kind, number) }

  private func object(_ verb: String, _ kind: String, _ number: UInt64) {
    guard isOn(.object) else { return }
    switch format {
    case .text: write(Array("obj: \(verb) \(kind) 0x\(String(number, radix: 16))\n".utf8))
    case .json:
      write(
        Array(
          "{\"time\":\(Self.unixTime()),\"event\":\"\(verb.lowercased())\",\"\(kind)\":\(number)}\n".utf8))
    }
  }

  /// Writes down a remark.
  func note(_ text: String) {
    guard isEnabled else { return }
    switch format {
    case .text: write(Array("\(text)\n".utf8))
    case .json:
      write(Array("{\"time\":\(Self.unixTime()),\"note\":\"\(Self.escaped(Array(text.utf8)[...]))\"}\n".utf8))
    }
  }

  private func write(_ line: [UInt8]) {
    sink.withLock { sink in
      let descriptor = sink.descriptor
      // SAFETY: the address and the count are those of the array's own bytes.
      _ = unsafe line.withUnsafeBytes { unsafe Glibc.write(descriptor, $0.baseAddress, $0.count) }
    }
  }

  private static func escaped(_ bytes: ArraySlice<UInt8>) -> String {
    var text = ""
    for byte in bytes {
      switch byte {
      case UInt8(ascii: "\""), UInt8(ascii: "\\"): text += "\\" + String(UnicodeScalar(byte))
      case 0x20...0x7E: text.unicodeScalars.append(UnicodeScalar(byte))
      default: text += "\\u00" + (byte < 16 ? "0" : "") + String(byte, radix: 16)
      }
    }
    return text
  }

  private static func unixTime() -> String {
    var now = timespec()
    // SAFETY: the address is of a local value.
    unsafe clock_gettime(CLOCK_REALTIME, &now)
    let micros = String(now.tv_nsec / 1000)
    return "\(now.tv_sec)." + String(repeating: "0", count: 6 - micros.utf8.count) + micros
  }

  private static func localTime() -> String {
    var now = time(nil)
    // SAFETY: `tm` holds a pointer to the zone's name, which is not touched; both addresses are of local values.
    let parts = { () -> [CInt] in
      var parts = unsafe tm()
      unsafe localtime_r(&now, &parts)
      return unsafe [
        parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
      ]
    }()
    let text = parts.map { $0 < 10 ? "0\($0)" : "\($0)" }
    return "\(text[0])\(text[1])\(text[2]) \(text[3]):\(text[4]):\(text[5])"
  }
}
