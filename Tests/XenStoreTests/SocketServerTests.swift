// SPDX-License-Identifier: MIT

import CLinux
import Glibc
import PVTestSupport
import Synchronization
import Testing
import XenStore
import XenWire

@Suite("A store's socket")
struct SocketServerTests {
  let folder: TemporaryFolder
  let server = StoreServer()
  let socket: StoreSocketServer

  init() throws {
    folder = try TemporaryFolder()
    socket = try StoreSocketServer(server: server, path: folder.path + "/socket")
  }

  /// The bytes of this process that are in memory.
  static func residentByteCount() -> Int {
    // SAFETY: the stream is read and closed here; the buffer's size is given.
    guard let file = unsafe fopen("/proc/self/statm", "r") else { return 0 }
    defer { unsafe fclose(file) }
    var bytes: [UInt8] = []
    while case let byte = unsafe getc(file), byte != EOF { bytes.append(UInt8(truncatingIfNeeded: byte)) }
    let fields = String(decoding: bytes, as: UTF8.self).split(separator: " ")
    return (Int(fields[1]) ?? 0) * 4096
  }

  /// Sends without waiting, and answers how many bytes went.
  static func push(_ bytes: [UInt8], to descriptor: Int32) -> Int {
    // SAFETY: the address and the count are those of the array's own bytes.
    unsafe bytes.withUnsafeBytes {
      unsafe max(0, send(descriptor, $0.baseAddress, $0.count, CInt(MSG_DONTWAIT) | CInt(MSG_NOSIGNAL)))
    }
  }

  @Test("pipelined requests are answered in order, however they are cut")
  func pipelining() throws {
    var random = SeededGenerator(seed: 11)
    var transport = try StoreSocketTransport(patient: socket.path)
    let count = 3000
    var bytes: [UInt8] = []
    for index in 0..<count {
      let isWrite = index % 2 == 0
      bytes += WireClient.message(isWrite ? 11 : 2, isWrite ? "/n\0\(index)" : "/n\0", request: UInt32(index))
    }
    var answers: [UInt8] = []
    var seen = 0
    while seen < count {
      let piece = Array(bytes.prefix(Int.random(in: 1...9000, using: &random)))
      let sent = piece.isEmpty ? 0 : Self.push(piece, to: transport.descriptor)
      bytes.removeFirst(sent)
      let more = try transport.receive(milliseconds: sent == 0 ? Patience.milliseconds : 0)
      if let more { answers += more } else { try #require(sent > 0, "the store neither took nor answered anything") }
      while let header = StoreMessageHeader(answers), answers.count >= 16 + Int(header.payloadByteCount) {
        try #require(header.requestID == UInt32(seen))
        if seen % 2 == 1 {
          let value = answers[16..<(16 + Int(header.payloadByteCount))]
          try #require(String(decoding: value, as: UTF8.self) == "\(seen - 1)")
        }
        answers.removeFirst(16 + Int(header.payloadByteCount))
        seen += 1
      }
    }
    transport.close()
  }

  @Test("a client that never reads stalls itself, and memory stays where it was")
  func neverReading() throws {
    let control = server.connect(as: .control)
    try control.write("/big", String(repeating: "x", count: 4000))
    let lazy = try StoreSocketTransport(patient: socket.path)
    let good = try StoreClient(patient: socket.path)
    let flood = Array(repeating: WireClient.message(2, "/big\0"), count: 100).flatMap { $0 }
    let before = Self.residentByteCount()
    var sent = 0
    for _ in 0..<TestScale.count(2000) {
      sent += Self.push(flood, to: lazy.descriptor)
      if sent % 7 == 0 { #expect(try good.exists("/tool")) }
    }
    #expect(sent < 8 << 20, "input stalls at the sockets' own buffers")
    #expect(try good.read("/tool") == "")
    #expect(Self.residentByteCount() - before < 64 << 20)
    var copy = lazy
    var received = 0
    while received < 1 << 20, let bytes = try copy.receive(milliseconds: 5000) { received += bytes.count }
    #expect(received >= 1 << 20, "it is served again as it reads")
    copy.close()
  }

  @Test("a client that lets events pile up is dropped before they are too many")
  func pilingEvents() throws {
    let lazy = try StoreClient(patient: socket.path)
    try lazy.watch("/", token: "t")
    let control = server.connect(as: .control)
    let stem = "/" + String(repeating: "s", count: 3000)
    var isDropped = false
    for index in 0..<20_000 where !isDropped {
      try control.write(stem + "\(index % 10)/\(index)", "")
      isDropped = server.statistics.watches == 0
    }
    #expect(isDropped)
    #expect(throws: StoreClientError.self) {
      while try lazy.nextEvent(milliseconds: Patience.milliseconds) != nil {}
    }
    #expect(server.check() == [])
  }

  @Test("many clients at once each get their own answers")
  func manyClients() throws {
    let failures = Atomic(0)
    let path = socket.path
    let threads = (0..<8).map { number in
      TestThread {
        do {
          let clients = try (0..<16).map { _ in try StoreClient(patient: path) }
          for round in 0..<20 {
            for (index, client) in clients.enumerated() {
              try client.write("/t\(number)/c\(index)", "\(round)")
              guard try client.read("/t\(number)/c\(index)") == "\(round)" else { throw StoreError.inputOutput }
            }
          }
        } catch {
          failures.add(1, ordering: .relaxed)
        }
      }
    }
    for thread in threads { thread.join() }
    #expect(failures.load(ordering: .relaxed) == 0)
    #expect(server.check() == [])
    #expect(Patience.wait { server.statistics.connections == 0 }, "a client that went is noticed")
  }

  @Test("random, cut and oversized messages never disturb another client", arguments: 0..<6 as Range<UInt64>)
  func randomBytes(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let good = try StoreClient(patient: socket.path)
    try good.watch("/good", token: "t")
    var left = TestScale.count(3000)
    while left > 0 {
      var bad = try StoreSocketTransport(patient: socket.path)
      for _ in 0..<Int.random(in: 1...400, using: &random) {
        left -= 1
        var message = randomMessage(&random)
        if UInt8.random(in: 0..<50, using: &random) == 0 { message.removeLast(message.count / 2) }
        _ = Self.push(message, to: bad.descriptor)
        if UInt8.random(in: 0..<4, using: &random) == 0 { _ = try? bad.receive(milliseconds: 0) }
      }
      bad.close()
    }
    try good.write("/good/x", "1")
    #expect(try good.read("/good/x") == "1", "seed \(seed)")
    #expect(server.check() == [], "seed \(seed)")
  }

  private func randomMessage(_ random: inout SeededGenerator) -> [UInt8] {
    let words = [
      "/", "a", "\0", "b", "/local/domain/1", "@releaseDomain", "T", "F", "n1", "r2", "1", "-1", "x y", "good",
    ]
    let payload = (0..<Int.random(in: 0...7, using: &random)).map { _ in words.randomElement(using: &random) ?? "" }
      .joined()
    let isHonest = UInt8.random(in: 0..<60, using: &random) != 0
    let length = isHonest ? nil : [0, 4096, 4097, 1 << 31, UInt32.max].randomElement(using: &random)
    return WireClient.message(
      UInt32.random(in: 0...28, using: &random), payload, transaction: UInt32.random(in: 0...2, using: &random),
      request: UInt32.random(in: 0 ... .max, using: &random), length: length)
  }

  @Test("the socket's file has the mode that was asked for, and goes at the end")
  func file() throws {
    let second = try StoreSocketServer(server: server, path: folder.path + "/second", mode: 0o640)
    var entry = stat()
    // SAFETY: the address is of a local value.
    #expect(unsafe stat(second.path, &entry) == 0)
    #expect(entry.st_mode & 0o777 == 0o640)
    second.stop()
    #expect(unsafe access(second.path, F_OK) != 0)
  }
}
