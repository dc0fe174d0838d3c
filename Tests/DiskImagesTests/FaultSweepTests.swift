// SPDX-License-Identifier: MIT

import BlockIO
import CSystemFaults
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@testable import DiskImages

/// One way for a system call to fail.
struct SystemFault: CustomTestStringConvertible, Sendable {
  var call: pv_faulty_call
  /// 0: half of what was asked is moved.
  var errorCode: CInt
  var testDescription: String

  static let all: [SystemFault] = {
    let calls: [(pv_faulty_call, String)] = [
      (PV_FAULTY_READ, "preadv2"), (PV_FAULTY_WRITE, "pwritev2"), (PV_FAULTY_SYNC, "fdatasync"),
      (PV_FAULTY_ALLOCATE, "fallocate"),
    ]
    let errors: [(CInt, String)] = [(EIO, "EIO"), (ENOSPC, "ENOSPC"), (EINTR, "EINTR"), (0, "a short count")]
    return calls.flatMap { call in
      errors.filter { $0.0 != 0 || call.0 == PV_FAULTY_READ || call.0 == PV_FAULTY_WRITE }.map { error in
        SystemFault(call: call.0, errorCode: error.0, testDescription: "\(call.1): \(error.1)")
      }
    }
  }()
}

/// What an image does when the calls below it fail.
///
/// With the queue's own thread that makes them (`blocking`), and with io_uring, whose entries are struck on their way to the
/// kernel.
@Suite("Errors from below an image")
struct FaultSweepTests {
  /// In memory, where syncing costs nothing, and on a disk for what bypasses the page cache.
  let memory: ScratchDirectory
  let disk: ScratchDirectory
  static let byteCount = 1 << 20

  init() throws {
    memory = try ScratchDirectory(inMemory: true)
    disk = try ScratchDirectory()
    for scratch in [memory, disk] { try RawImage.create(path: scratch.file(), byteCount: UInt64(Self.byteCount)) }
  }

  /// The engines whose calls can be made to fail here.
  static let engines: [ImageOptions.Engine] = pv_faults_reach_rings() ? [.blocking, .automatic] : [.blocking]

  func open(
    _ cache: ImageOptions.CacheMode = .writeback, queues: Int = 1, engine: ImageOptions.Engine = .blocking
  ) throws -> RawImage {
    try RawImage.open(
      path: (cache == .none ? disk : memory).file(),
      options: ImageOptions(cache: cache, engine: engine, queueCount: queues))
  }

  @Test(
    "entries of io_uring can be made to fail on this kernel: 6.10 or later",
    .enabled(if: KernelRelease.isAtLeast(6, 10)))
  func reachesRings() { #expect(Self.engines.count == 2) }

  /// One request with the memory that it needs, and how to see that it was done.
  struct Request {
    var operation: IOOperation
    var byteCount = 4096
    var isForced = false
    /// The call without which it cannot be done.
    var call: pv_faulty_call?

    static let all: [Request] = [
      Request(operation: .read, call: PV_FAULTY_READ), Request(operation: .write, call: PV_FAULTY_WRITE),
      Request(operation: .write, byteCount: 512, call: PV_FAULTY_WRITE),
      Request(operation: .write, byteCount: 256 << 10, call: PV_FAULTY_WRITE),
      Request(operation: .write, isForced: true, call: PV_FAULTY_WRITE),
      Request(operation: .discard, byteCount: 8192, call: PV_FAULTY_ALLOCATE),
      Request(operation: .writeZeroes, byteCount: 8192, call: PV_FAULTY_ALLOCATE),
      Request(operation: .flush, call: PV_FAULTY_SYNC),
    ]
  }

  /// Whether all bytes are this one; quick in a debug build too.
  static func isFilled(_ bytes: ArraySlice<UInt8>, with byte: UInt8) -> Bool {
    unsafe bytes.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress, unsafe bytes[0] == byte else { return false }
      // SAFETY: bytes that equal their neighbours equal the first.
      return unsafe memcmp(base, base + 1, bytes.count - 1) == 0
    }
  }

  func run(
    _ request: Request, _ driver: inout QueueDriver<RawImageQueue>, byte: UInt8,
    cache: ImageOptions.CacheMode = .writeback
  ) throws -> (code: CInt, isRight: Bool) {
    if request.operation == .flush { return (driver.run(.flush()), true) }
    let isMoving = request.operation == .read || request.operation == .write
    let pages = isMoving ? try ScatteredMemory(byteCount: request.byteCount) : nil
    if request.operation == .write { pages?.bytes = Array(repeating: byte, count: request.byteCount) }
    let code = driver.run(at: 0, request.byteCount, request.operation, pages, forceUnitAccess: request.isForced)
    guard code == 0 else { return (code, true) }
    let found = try (cache == .none ? disk : memory).read().prefix(request.byteCount)
    switch request.operation {
    case .read: return (0, pages?.bytes == Array(found))
    case .write: return (0, Self.isFilled(found, with: byte))
    default: return (0, Self.isFilled(found, with: 0))
    }
  }

  @Test(
    "a failing call is the error of the request that needed it, what succeeds is right, and service goes on",
    arguments: SystemFault.all, [ImageOptions.CacheMode.writeback, .none])
  func each(fault: SystemFault, cache: ImageOptions.CacheMode) throws {
    for engine in Self.engines {
      let image = try open(cache, engine: engine)
      var strikes: UInt64 = 0
      do {
        var driver = try image.driver()
        for request in Request.all {
          for count in [UInt64(1), 3, 0] { strikes += try check(fault, count, request, &driver, cache) }
        }
      }
      #expect(strikes > 0, "\(engine): the call is made")
      try? image.close()
    }
  }

  private func check(
    _ fault: SystemFault, _ count: UInt64, _ request: Request, _ driver: inout QueueDriver<RawImageQueue>,
    _ cache: ImageOptions.CacheMode
  ) throws -> UInt64 {
    #expect(try run(Request(operation: .write), &driver, byte: 0x11, cache: cache).code == 0)
    pv_faults_set(fault.call, fault.errorCode, 0, count)
    let outcome = try run(request, &driver, byte: 0x22, cache: cache)
    let strikes = pv_faults_clear()
    let what = "\(request.operation) of \(request.byteCount), \(count) times, \(strikes) strikes: \(outcome)"
    #expect(outcome.isRight, "\(what)")
    if strikes == 0 || fault.errorCode == 0 || (fault.errorCode == EINTR && count > 0) {
      #expect(outcome.code == 0, "\(what)")
    } else if request.call == fault.call, count != 1 {
      #expect(outcome.code == fault.errorCode, "\(what)")
    } else {
      #expect(outcome.code == 0 || outcome.code == fault.errorCode, "\(what)")
    }
    // The fault has cleared: the same request works, and so does a flush once what was lost has been told.
    let again = try run(request, &driver, byte: 0x33, cache: cache)
    #expect((again.code == 0 || request.operation == .flush) && again.isRight, "\(what), then \(again)")
    guard cache == .writeback || request.operation == .flush || request.isForced else { return strikes }
    _ = driver.run(.flush())
    #expect(driver.run(.flush()) == 0, "\(what)")
    return strikes
  }

  @Test(
    "an fdatasync that fails fails the flush of everybody who wrote before it, once", arguments: [EIO, ENOSPC], engines)
  func everybody(errorCode: CInt, engine: ImageOptions.Engine) throws {
    let image = try open(queues: 4, engine: engine)
    do {
      var first = try image.driver(0), second = try image.driver(1), third = try image.driver(2)
      #expect(try run(Request(operation: .write), &first, byte: 1).code == 0)
      #expect(try run(Request(operation: .write), &second, byte: 2).code == 0)
      pv_faults_set(PV_FAULTY_SYNC, errorCode, 0, 1)
      #expect(first.run(.flush()) == errorCode)
      #expect(pv_faults_clear() == 1)
      #expect(second.run(.flush()) == errorCode, "its own sync succeeds, and its write may be lost")
      #expect(third.run(.flush()) == errorCode)
      for _ in 0..<2 {
        #expect(first.run(.flush()) == 0)
        #expect(second.run(.flush()) == 0)
        #expect(third.run(.flush()) == 0)
      }
    }
    #expect(throws: BlockError.self) { try image.close() }
  }

  @Test("of 64 flushes that share a failing fdatasync none succeeds", arguments: engines)
  func sharedFailure(engine: ImageOptions.Engine) throws {
    let image = try open(engine: engine)
    do {
      var driver = try image.driver()
      #expect(try run(Request(operation: .write), &driver, byte: 1).code == 0)
      pv_faults_set(PV_FAULTY_SYNC, EIO, 0, 1)
      for tag in 0..<64 as Range<UInt64> { #expect(driver.queue.submit(.flush(tag: tag)) == .accepted) }
      var codes: [CInt] = []
      while codes.count < 64, let completion = driver.nextCompletion() { codes.append(completion.errorCode) }
      #expect(pv_faults_clear() == 1)
      #expect(codes == Array(repeating: EIO, count: 64))
    }
    #expect(throws: BlockError.self) { try image.close() }
  }

  @Test("wherever in a run of requests one call fails, the others are right", arguments: SystemFault.all, engines)
  func nthCall(fault: SystemFault, engine: ImageOptions.Engine) throws {
    var reached = 0
    // A ring takes its time to come and go: not every call of it is tried.
    for skip in stride(from: UInt64(0), to: 400, by: engine == .blocking ? 1 : 40) {
      let image = try open(engine: engine)
      defer { try? image.close() }
      var driver = try image.driver()
      var random = SeededGenerator(seed: 1)
      pv_faults_set(fault.call, fault.errorCode, skip, 1)
      defer { pv_faults_clear() }
      // What each 4 KiB holds; nil when a request failed there.
      let before = try memory.read()
      var known: [UInt8?] = stride(from: 0, to: before.count, by: 4096).map { before[$0] }
      var failures = 0
      for step in 0..<40 {
        let place = Int.random(in: 0..<known.count, using: &random)
        let byte = UInt8(truncatingIfNeeded: step + 1)
        let kind = [IOOperation.write, .read, .write, .discard, .flush, .writeZeroes][step % 6]
        let pages = kind == .read || kind == .write ? try ScatteredMemory(byteCount: 4096) : nil
        if kind == .write { pages?.bytes = Array(repeating: byte, count: 4096) }
        let code = kind == .flush ? driver.run(.flush()) : driver.run(at: place * 4096, 4096, kind, pages)
        if code != 0 {
          failures += 1
          #expect(code == fault.errorCode, "\(kind) after \(skip) calls")
        }
        switch kind {
        case .write: known[place] = code == 0 ? byte : nil
        case .discard, .writeZeroes: known[place] = code == 0 ? 0 : nil
        case .read:
          if code == 0, let expected = known[place] {
            let bytes = pages?.bytes ?? []
            #expect(Self.isFilled(bytes[...], with: expected), "read after \(skip) calls")
          }
        default: break
        }
      }
      let strikes = pv_faults_clear()
      #expect(failures <= Int(strikes), "one call, one request")
      let found = try memory.read()
      for (place, byte) in known.enumerated() {
        guard let byte else { continue }
        #expect(Self.isFilled(found[place * 4096..<place * 4096 + 4096], with: byte), "after \(skip) calls")
      }
      if strikes == 0 { break }
      reached += 1
    }
    #expect(reached > (engine == .blocking ? 3 : 0), "the call is made more than a few times")
  }

  @Test("holes and data that cannot be told apart are data", arguments: [EIO, EINVAL])
  func seeking(errorCode: CInt) throws {
    let image = try open()
    pv_faults_set(PV_FAULTY_SEEK, errorCode, 0, 0)
    #expect(image.nextData(from: 4096) == 4096)
    #expect(image.nextHole(from: 4096) == UInt64(Self.byteCount))
    #expect(pv_faults_clear() == 2)
    try image.close()
  }
}
