// SPDX-License-Identifier: MIT

import Glibc
import PVTestSupport
import Synchronization
import Testing
import XenHypervisor
import XenStore
import XenWire

@testable import PVMachine

@Suite("A guest's way to the store through its ring page")
struct GuestStoreTests {
  @Test("a driver that writes while the toolstack has a transaction open is slowed down, not stopped")
  func writeCredit() throws {
    var configuration = MachineConfiguration()
    configuration.guestStore = .ring
    let machine = try Machine(configuration)
    let transaction = try machine.toolstack.startTransaction()
    let written = Atomic(0)
    let failure = Mutex<StoreError?>(nil)
    let isDone = Atomic(false)
    // On a thread of its own, so that a guest that is never answered fails this test and no other.
    let driver = machine.connectGuest()
    let home = "\(StorePath.home(of: machine.guest.id))"
    let path = home + "/data"
    try machine.toolstack.write(path, "")
    try machine.toolstack.setPermissions(path, StorePermissions(owner: machine.guest.id))
    let thread = PeerThread {
      do throws(StoreError) {
        try driver.watch("data", token: "t")
        for index in 0..<60 {
          try driver.write("data", "\(index)")
          written.add(1, ordering: .relaxed)
        }
      } catch {
        failure.withLock { $0 = error }
      }
      isDone.store(true, ordering: .releasing)
    }
    for _ in 0..<60_000 where !isDone.load(ordering: .acquiring) { usleep(1000) }
    let hasEnded = isDone.load(ordering: .acquiring)
    try #require(
      hasEnded, "stopped after \(written.load(ordering: .relaxed)) of 60 writes")
    thread.join()
    #expect(failure.withLock { $0 } == nil)
    #expect(try machine.toolstack.read(path) == "59")
    try machine.toolstack.endTransaction(transaction, commit: false)
    var events = 0
    while driver.nextEvent() != nil { events += 1 }
    #expect(events >= 2)
    #expect(machine.store.check() == [])
  }
}
