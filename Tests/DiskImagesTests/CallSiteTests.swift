// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import CSystemFaults
import Glibc
import PVTestSupport
import Testing

@testable import DiskImages

/// One place from which an image calls the system for its bytes, and what leads there.
struct CallSite: CustomTestStringConvertible, Sendable {
  let call: pv_faulty_call
  /// Whether it is an entry of io_uring; the queue's own thread makes the others.
  let isRingEntry: Bool
  /// A bit of its flags or mode that tells it from its neighbours; 0 for none.
  var flag: CInt = 0
  let testDescription: String
  /// Whether the image is a block device.
  var isDevice = false
  let request: FaultSweepTests.Request
  /// Whether what is read or written has left the page cache before.
  var isCold = false
  /// Calls of the same kind that are made before.
  var skip: UInt64 = 0

  /// In the order of docs/reliability.md, "Calls below an image".
  static let all: [CallSite] = {
    typealias Request = FaultSweepTests.Request
    let flush = Request(operation: .flush), zeroes = Request(operation: .writeZeroes, byteCount: 8192)
    let discard = Request(operation: .discard, byteCount: 8192)
    let forced = Request(operation: .write, isForced: true), part = Request(operation: .write, byteCount: 512)
    return [
      CallSite(
        call: PV_FAULTY_READ, isRingEntry: false, flag: pv_rwf_nowait, testDescription: "a cached read",
        request: Request(operation: .read)),
      CallSite(
        call: PV_FAULTY_READ, isRingEntry: true, testDescription: "a read that waits",
        request: Request(operation: .read), isCold: true, skip: 1),
      CallSite(
        call: PV_FAULTY_READ, isRingEntry: false, testDescription: "a read that waits, without a ring",
        request: Request(operation: .read), isCold: true),
      CallSite(
        call: PV_FAULTY_WRITE, isRingEntry: false, testDescription: "a write to the page cache",
        request: Request(operation: .write)),
      CallSite(
        call: PV_FAULTY_WRITE, isRingEntry: true, testDescription: "a write of a part of a page that is not there",
        request: part, isCold: true),
      CallSite(
        call: PV_FAULTY_WRITE, isRingEntry: true, flag: pv_rwf_dsync, testDescription: "a forced write", request: forced
      ),
      CallSite(
        call: PV_FAULTY_WRITE, isRingEntry: false, flag: pv_rwf_dsync,
        testDescription: "a forced write, without a ring", request: forced),
      CallSite(call: PV_FAULTY_SYNC, isRingEntry: true, testDescription: "a flush", request: flush),
      CallSite(call: PV_FAULTY_SYNC, isRingEntry: false, testDescription: "a flush, without a ring", request: flush),
      CallSite(
        call: PV_FAULTY_ALLOCATE, isRingEntry: true, flag: pv_falloc_punch_hole, testDescription: "a hole",
        request: discard),
      CallSite(
        call: PV_FAULTY_ALLOCATE, isRingEntry: false, flag: pv_falloc_punch_hole,
        testDescription: "a hole, without a ring", request: discard),
      CallSite(
        call: PV_FAULTY_ALLOCATE, isRingEntry: true, flag: pv_falloc_zero_range, testDescription: "zeroes",
        request: zeroes),
      CallSite(
        call: PV_FAULTY_ALLOCATE, isRingEntry: false, flag: pv_falloc_zero_range,
        testDescription: "zeroes, without a ring", request: zeroes),
      CallSite(
        call: PV_FAULTY_DISCARD, isRingEntry: true, testDescription: "a device's discard", isDevice: true,
        request: discard),
      CallSite(
        call: PV_FAULTY_DISCARD, isRingEntry: false, testDescription: "a device's discard, without a ring",
        isDevice: true, request: discard),
    ]
  }()
}

@Suite("Every call below an image")
struct CallSiteTests {
  static func canRun(_ site: CallSite) -> Bool {
    (!site.isRingEntry || pv_faults_reach_rings()) && (!site.isDevice || LoopDevice.isAvailable)
  }

  @Test(
    "can fail: the request that made it has its error, and the same request succeeds when the fault has cleared",
    arguments: CallSite.all.filter { canRun($0) })
  func fails(site: CallSite) throws {
    let scratch = try ScratchDirectory()
    try scratch.write(Array(repeating: 7, count: 1 << 20))
    let loop = site.isDevice ? try LoopDevice(file: scratch.file()) : nil
    // Only what waits, or has a file system's own say, goes through the ring.
    let isRing = site.isRingEntry || !site.testDescription.hasSuffix("without a ring")
    let image = try RawImage.open(
      path: loop?.path ?? scratch.file(), options: ImageOptions(engine: isRing ? .automatic : .blocking))
    do {
      var driver = try image.driver()
      for errorCode in [EIO, ENOSPC] {
        #expect(driver.run(at: 512 << 10, 4096, .write, try ScatteredMemory(byteCount: 4096)) == 0)
        #expect(driver.run(.flush()) == 0)
        #expect(driver.run(at: 512 << 10, 4096, .write, try ScatteredMemory(byteCount: 4096)) == 0)
        if site.isCold { scratch.evict() }
        pv_faults_set(site.call, errorCode, site.skip, 0)
        let code = try run(site.request, &driver)
        let struck = pv_faults_last(), strikes = pv_faults_clear()
        #expect(strikes > 0 && struck.call == site.call && struck.is_ring_entry == site.isRingEntry, "\(struck)")
        #expect(struck.flags & site.flag == site.flag, "\(struck)")
        #expect(code == errorCode)
        if site.request.operation != .flush { #expect(try run(site.request, &driver) == 0) }
        // What a failed sync may have lost is told once.
        _ = driver.run(.flush())
        #expect(driver.run(.flush()) == 0)
      }
    }
    try? image.close()
  }

  private func run(_ request: FaultSweepTests.Request, _ driver: inout QueueDriver<RawImageQueue>) throws -> CInt {
    if request.operation == .flush { return driver.run(.flush()) }
    let isMoving = request.operation == .read || request.operation == .write
    let memory = isMoving ? try ScatteredMemory(byteCount: request.byteCount) : nil
    return driver.run(at: 0, request.byteCount, request.operation, memory, forceUnitAccess: request.isForced)
  }

  @Test("an image that cannot be made leaves nothing behind", arguments: [PV_FAULTY_RESIZE, PV_FAULTY_FULL_SYNC])
  func making(call: pv_faulty_call) throws {
    let scratch = try ScratchDirectory(inMemory: true)
    for errorCode in [EIO, ENOSPC] {
      pv_faults_set(call, errorCode, 0, 0)
      let refusal = #expect(throws: BlockError.self) { try RawImage.create(path: scratch.file(), byteCount: 65536) }
      #expect(pv_faults_clear() == 1)
      let name = call == PV_FAULTY_RESIZE ? "ftruncate" : "fsync"
      #expect(refusal == .system(call: name, path: scratch.file(), code: errorCode))
      #expect(unsafe access(scratch.file(), F_OK) == -1)
    }
    pv_faults_set(call, EINTR, 0, 3)
    try RawImage.create(path: scratch.file(), byteCount: 65536)
    #expect(pv_faults_clear() == 3)
  }

  @Test("a size that cannot be changed stays as it was")
  func resizing() throws {
    let scratch = try ScratchDirectory(inMemory: true)
    try RawImage.create(path: scratch.file(), byteCount: 65536)
    let image = try RawImage.open(path: scratch.file())
    pv_faults_set(PV_FAULTY_RESIZE, ENOSPC, 0, 0)
    #expect(throws: BlockError.system(call: "ftruncate", path: scratch.file(), code: ENOSPC)) {
      try image.resize(to: 131_072)
    }
    #expect(pv_faults_clear() == 1)
    #expect(try image.refreshGeometry().byteCount == 65536)
    pv_faults_set(PV_FAULTY_RESIZE, EINTR, 0, 3)
    try image.resize(to: 131_072)
    #expect(pv_faults_clear() == 3)
    #expect(try image.refreshGeometry().byteCount == 131_072)
    try image.close()
  }

  @Test("a probe that fails costs speed, not bytes", arguments: [PV_FAULTY_READ, PV_FAULTY_ALLOCATE])
  func probing(call: pv_faulty_call) throws {
    let scratch = try ScratchDirectory()
    try scratch.write(Array(repeating: 7, count: 65536))
    pv_faults_set(call, EIO, 0, 0)
    let image = try RawImage.open(path: scratch.file(), options: ImageOptions(engine: .blocking))
    #expect(pv_faults_clear() > 0)
    do {
      var driver = try image.driver()
      let memory = try ScatteredMemory(byteCount: 4096)
      #expect(driver.run(at: 4096, 4096, .read, memory) == 0)
      #expect(memory.bytes == Array(repeating: 7, count: 4096))
      #expect(driver.run(at: 8192, 4096, .writeZeroes) == 0)
      // Whether a page is in the page cache cannot be told: the write goes the long way.
      pv_faults_set(PV_FAULTY_READ, EIO, 0, 0)
      memory.bytes = Array(repeating: 9, count: 4096)
      #expect(driver.run(at: 512, 512, .write, try memory.prefix(512)) == 0)
      pv_faults_clear()
    }
    try image.close()
    let expected = [7, 9, 7, 0, 7] as [UInt8]
    let found = try scratch.read()
    #expect([0, 600, 4096, 8192, 16384].map { found[$0] } == expected)
  }

  @Test("a last flush that fails is the error of closing")
  func closing() throws {
    let scratch = try ScratchDirectory(inMemory: true)
    try RawImage.create(path: scratch.file(), byteCount: 65536)
    let image = try RawImage.open(path: scratch.file())
    pv_faults_set(PV_FAULTY_SYNC, EIO, 0, 1)
    #expect(throws: BlockError.system(call: "fdatasync", path: scratch.file(), code: EIO)) { try image.close() }
    #expect(pv_faults_clear() == 1)
  }
}
