// SPDX-License-Identifier: MIT

import BlockIO
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@testable import DiskImages

@Suite("Requests on their way through the ring")
struct RequestSlotTests {
  private func slot(_ step: RequestSlot.Step, byteCount: UInt64 = 8192) -> RequestSlot {
    var slot = RequestSlot()
    slot.step = step
    slot.byteCount = byteCount
    return slot
  }

  @Test("a short transfer goes on where it stopped", arguments: [RequestSlot.Step.read, .write, .zeroData])
  func shortTransfer(step: RequestSlot.Step) {
    var slot = slot(step)
    #expect(slot.advance(result: 4096) == .again)
    #expect(slot.remaining == 4096)
    #expect(slot.advance(result: 1) == .again)
    #expect(slot.advance(result: 4095) == .done(0))
  }

  @Test("a short transfer goes on within the right extent")
  func shortScatter() throws {
    let memory = try ScatteredMemory(pieces: [512, 1024, 512])
    var slot = slot(.read, byteCount: 2048)
    slot.memory = memory.list
    #expect(slot.advance(result: 100) == .again)
    #expect(slot.extentIndex == 0 && slot.extentOffset == 100)
    #expect(slot.advance(result: 412) == .again)
    #expect(slot.extentIndex == 1 && slot.extentOffset == 0)
    #expect(slot.advance(result: 1100) == .again)
    #expect(slot.extentIndex == 2 && slot.extentOffset == 76)

    var table = try SlotTable(count: 2)
    let index = table.take()
    table[index] = slot
    let window = table.fillWindow(index)
    #expect(window.count == 1)
    let vector = unsafe window.start.pointee
    #expect(UInt(bitPattern: unsafe vector.iov_base) == memory.list[2].address + 76)
    #expect(unsafe vector.iov_len == 512 - 76)
    #expect(slot.advance(result: 436) == .done(0))
  }

  @Test("nothing moved means that the file has ended", arguments: [RequestSlot.Step.read, .write])
  func nothingMoved(step: RequestSlot.Step) {
    var slot = slot(step)
    #expect(slot.advance(result: 0) == .done(EIO))
  }

  @Test("an interruption is tried again, but not for ever", arguments: [EINTR, EAGAIN])
  func retries(code: CInt) {
    for step in [RequestSlot.Step.read, .sync, .punch] {
      var slot = slot(step)
      var tries = 0
      while slot.advance(result: -code) == .again { tries += 1 }
      #expect(tries == RequestSlot.retryLimit)
    }
  }

  @Test("an error ends a transfer", arguments: [RequestSlot.Step.read, .write, .secureData, .sync, .zeroRange])
  func errors(step: RequestSlot.Step) {
    var slot = slot(step)
    #expect(slot.advance(result: -ENOSPC) == .done(ENOSPC))
  }

  @Test("zeroing falls from range to hole to data, and only where the one is unknown")
  func zeroing() {
    var slot = slot(.zeroRange)
    #expect(slot.advance(result: -EOPNOTSUPP) == .again)
    #expect(slot.step == .zeroPunch)
    #expect(slot.advance(result: -EOPNOTSUPP) == .again)
    #expect(slot.step == .zeroData)
    #expect(slot.advance(result: 8192) == .done(0))
    var failing = self.slot(.zeroRange)
    #expect(failing.advance(result: -EIO) == .done(EIO))
  }

  @Test("a device's discard falls back to a hole, and that to an error")
  func deviceDiscard() {
    for code in [EINVAL, EOPNOTSUPP] {
      var slot = slot(.blockDiscard)
      #expect(slot.advance(result: -code) == .again)
      #expect(slot.step == .punch)
      #expect(slot.advance(result: -EOPNOTSUPP) == .done(EOPNOTSUPP))
    }
    var failing = slot(.blockDiscard)
    #expect(failing.advance(result: -EIO) == .done(EIO))
    var busy = slot(.blockDiscard)
    #expect(busy.advance(result: -EBUSY) == .again && busy.step == .blockDiscard)
    #expect(busy.advance(result: 0) == .done(0))
  }

  @Test("a secure discard overwrites, syncs and then frees, and fails where one before the last fails")
  func secureDiscard() {
    var slot = slot(.secureData)
    #expect(slot.advance(result: 4096) == .again)
    #expect(slot.step == .secureData)
    #expect(slot.advance(result: 4096) == .again)
    #expect(slot.step == .secureSync)
    var failing = slot
    #expect(failing.advance(result: -EIO) == .done(EIO))
    #expect(slot.advance(result: 0) == .again)
    #expect(slot.step == .securePunch)
    var unsupported = slot
    #expect(unsupported.advance(result: -EOPNOTSUPP) == .done(0))
    #expect(slot.advance(result: -EIO) == .done(EIO))
  }

  @Test("a window of zeros covers what remains, as far as it reaches")
  func zeroWindow() throws {
    let zeros = try ScatteredMemory(byteCount: 65536)
    var table = try SlotTable(count: 1)
    let index = table.take()
    var slot = slot(.zeroData, byteCount: 3 * 65536 + 512)
    slot.moved = 65536
    table[index] = slot
    let window = table.fillWindow(index, repeating: zeros.list[0])
    #expect(window.count == 3)
    #expect(unsafe window.start[2].iov_len == 512)
    slot.byteCount = 1 << 40
    table[index] = slot
    #expect(table.fillWindow(index, repeating: zeros.list[0]).count == SlotTable.windowLength)
  }
}
