// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import GuestMemory
import PVPeers
import PVTestSupport
import Testing
import XenRecords
import XenWire

@Suite("Flush, barrier and discard")
struct OrderTests {
  typealias Entry = String

  func log(_ frontend: ScriptedFrontend<ABI64>) -> [String] { frontend.disk.log.map(\.description) }

  @Test("an empty flush flushes, and its sector does not matter: Linux writes all ones there")
  func emptyFlush() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    let captured = try #require(try CapturedRequest.all().first { $0.number("operation") == 3 })
    frontend.ring.write(captured.slot, to: frontend.produced)
    frontend.produced += 1
    let id = try #require(captured.number("id"))
    #expect(frontend.run() == [BlockResponse(id: id, operation: .flushDiskCache, status: .okay)])
    #expect(log(frontend) == ["flush 0+0"])
    #expect(frontend[.f_req] == 1 && frontend[.wr_req] == 0)
  }

  @Test("a flush with data flushes first and writes then")
  func flushWithData() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    let page = try frontend.grantPage()
    page.fill(0x33)
    frontend.disk.isOpen = false
    frontend.direct(.flushDiskCache, sector: 16, [page.segment()])
    #expect(frontend.run().isEmpty)
    #expect(log(frontend) == ["flush 0+0"], "the write waits for the flush")
    frontend.disk.release()
    #expect(frontend.runBackend().isEmpty)
    #expect(log(frontend) == ["flush 0+0", "write 16+8"])
    frontend.disk.release()
    #expect(frontend.runBackend() == [BlockResponse(id: 7, operation: .flushDiskCache, status: .okay)])
    #expect(frontend.disk.disk.contents.load(UInt8.self, at: 16 * 512) == 0x33)
    #expect(frontend.mappedPages == 0)
  }

  @Test("a flush that fails writes nothing; one that the disk does not know is unsupported")
  func failingFlush() throws {
    for (code, status): (CInt, BlockStatus) in [(5, .error), (28, .error), (95, .unsupported)] {
      let frontend = try ScriptedFrontend<ABI64>()
      let page = try frontend.grantPage()
      frontend.disk.fail(.flush, with: code)
      for operation: BlockOperation in [.flushDiskCache, .writeBarrier] {
        frontend.disk.forget()
        frontend.direct(operation, sector: 16, [page.segment()])
        #expect(frontend.run() == [BlockResponse(id: 7, operation: operation, status: status)])
        #expect(log(frontend) == ["flush 0+0"])
      }
      #expect(frontend.mappedPages == 0)
    }
  }

  @Test("errors of reading and writing are errors, whatever their number")
  func transferErrors() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    let page = try frontend.grantPage()
    for code: CInt in [5, 28, 95] {
      frontend.disk.fail(.read, with: code)
      frontend.disk.fail(.write, with: code)
      frontend.direct(.read, [page.segment()])
      frontend.direct(.write, [page.segment()])
      #expect(frontend.run().map(\.status) == [.error, .error])
    }
    #expect(frontend.mappedPages == 0)
  }

  @Test("a barrier waits for what came before, holds up what comes after, and flushes before its data")
  func barrier() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    let pages = try frontend.grantPages(6)
    frontend.disk.isOpen = false
    for index in 0..<3 {
      frontend.direct(.write, id: UInt64(index), sector: UInt64(index * 8), [pages[index].segment()])
    }
    frontend.direct(.writeBarrier, id: 3, sector: 100, [pages[3].segment()])
    for index in 4..<6 {
      frontend.direct(.write, id: UInt64(index), sector: UInt64(index * 8), [pages[index].segment()])
    }
    #expect(frontend.run().isEmpty)
    let before = ["write 0+8", "write 8+8", "write 16+8"]
    #expect(log(frontend) == before)
    for _ in 0..<2 {
      frontend.disk.release()
      #expect(frontend.runBackend().count == 1)
      #expect(log(frontend) == before, "one is still under way")
    }
    frontend.disk.release()
    #expect(frontend.runBackend().map(\.id) == [2])
    #expect(log(frontend) == before + ["flush 0+0"])
    frontend.disk.release()
    #expect(frontend.runBackend().isEmpty)
    #expect(log(frontend) == before + ["flush 0+0", "write 100+8"])
    frontend.disk.isOpen = true
    #expect(Set(frontend.runBackend().map(\.id)) == [3, 4, 5])
    #expect(log(frontend) == before + ["flush 0+0", "write 100+8", "write 32+8", "write 40+8"])
    #expect(frontend.mappedPages == 0)
  }

  @Test("several barriers in a row, empty and with data, all end")
  func manyBarriers() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    let page = try frontend.grantPage()
    for index in 0..<30 {
      switch index % 3 {
      case 0: frontend.direct(.writeBarrier, id: UInt64(index))
      case 1: frontend.direct(.writeBarrier, id: UInt64(index), sector: 8, [page.segment()])
      default: frontend.direct(.read, id: UInt64(index), [page.segment()])
      }
    }
    let responses = frontend.run()
    #expect(responses.map(\.id) == (0..<30).map { UInt64($0) }, "each waits for those before it")
    #expect(responses.allSatisfy { $0.status == .okay })
  }

  @Test("requests without a barrier between them finish in any order")
  func anyOrder() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    let pages = try frontend.grantPages(3)
    frontend.disk.isOpen = false
    for index in 0..<3 { frontend.direct(.read, id: UInt64(index), sector: 0, [pages[index].segment()]) }
    #expect(frontend.run().isEmpty)
    frontend.disk.release(2)
    #expect(frontend.runBackend().map(\.id) == [2])
    frontend.disk.release(0)
    #expect(frontend.runBackend().map(\.id) == [0])
  }

  @Test("discard reaches the disk; the secure flag counts only where it was offered")
  func discard() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    frontend.discard(sector: 8, count: 16)
    frontend.discard(sector: 24, count: 8, isSecure: true)
    #expect(frontend.run().map(\.status) == [.okay, .okay])
    #expect(log(frontend) == ["discard 8+16", "secureDiscard 24+8"])
    #expect(frontend[.ds_req] == 2)
    var setup = ScriptedFrontend<ABI64>.Setup()
    setup.abilities.canDiscardSecurely = false
    let plain = try ScriptedFrontend<ABI64>(setup)
    plain.discard(sector: 24, count: 8, isSecure: true)
    #expect(plain.run().map(\.status) == [.okay])
    #expect(log(plain) == ["discard 24+8"])
  }

  @Test("a discard that the disk cannot do is unsupported, one that fails is an error")
  func failingDiscard() throws {
    for (code, status): (CInt, BlockStatus) in [(95, .unsupported), (5, .error)] {
      let frontend = try ScriptedFrontend<ABI64>()
      frontend.disk.fail(.discard, with: code)
      frontend.discard(sector: 8, count: 16)
      #expect(frontend.run() == [BlockResponse(id: 7, operation: .discard, status: status)])
    }
  }

  @Test("a disk that grew is used to its new end")
  func resize() throws {
    let frontend = try ScriptedFrontend<ABI64>()
    let page = try frontend.grantPage()
    frontend.direct(.read, sector: 2041, [page.segment()])
    #expect(frontend.run().map(\.status) == [.error])
    frontend.back?.resize(to: 2049)
    frontend.disk.fail(.read, with: 0)
    frontend.direct(.read, sector: 2041, [page.segment()])
    _ = frontend.run()
    #expect(log(frontend) == ["read 2041+8"], "the disk is asked now")
  }
}
