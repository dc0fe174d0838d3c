// SPDX-License-Identifier: MIT

import BlockBack
import BlockIO
import GuestMemory
import PVMachine
import PVTestSupport
import SharedRing
import Testing
import XenBus
import XenHypervisor
import XenStore
import XenWire

@Suite("Xen's advisories on whom a toolstack and a backend believe")
struct ToolstackTrustTests {
  func attach(_ configuration: DiskConfiguration) throws -> (Machine, AttachedDisk<MemoryDisk>) {
    let machine = try Machine()
    let image = try MemoryDisk(geometry: BlockGeometry(sectorCount: 2048))
    image.contents.fill(0x5A)
    return (machine, try machine.attach(image, as: configuration))
  }

  @Test("XSA-142, 175, 178, 266: what a frontend writes into its own folder changes neither the disk nor its mode")
  func ownFolder() throws {
    func isWritten(_ faults: RingFaults) throws -> Bool {
      var configuration = DiskConfiguration()
      configuration.isReadOnly = true
      let (machine, disk) = try attach(configuration)
      disk.backend.plant(faults)
      let hostile = machine.store.connect(as: machine.guest.id)
      let folder = disk.definition.frontendPath
      for (key, value) in [
        ("mode", "w"), ("backend", folder.string + "/mine"), ("backend-id", "1"), ("virtual-device", "51728"),
        ("params", "/etc/shadow"), ("device-type", "cdrom"), ("trusted", "1"),
      ] { try hostile.write(folder / key, value) }
      try hostile.write(folder / "mine/state", "4")
      var errorCode: CInt = 0
      do {
        var driver = QueueDriver(try disk.makeQueue(0, buffers: BufferDemand(count: 1, byteCount: 4096)))
        let memory = try ScatteredMemory(byteCount: 4096)
        memory.bytes = Array(repeating: 0xEE, count: 4096)
        errorCode = driver.run(at: 0, 4096, .write, memory)
        #expect(driver.run(at: 0, 4096, .read, memory) == 0)
        _ = consume driver
      }
      defer { disk.detach() }
      return errorCode == 0 || disk.image.contents.load(UInt8.self, at: 0) != 0x5A
    }
    #expect(try !isWritten(RingFaults()), "the rule holds")
    if RingFaults.canBePlanted {
      #expect(try isWritten(RingFaults(.frontendDecidesMode)), "the planted bug is noticed")
    }
  }

  @Test("XSA-57, 175, 178: a guest cannot write where a toolstack or a backend reads what is served")
  func permissions() throws {
    let (machine, disk) = try attach(DiskConfiguration())
    let hostile = machine.store.connect(as: machine.guest.id)
    let backend = disk.definition.backendPath
    for key in ["mode", "params", "physical-device-path", "frontend-id", "frontend", "type", "online", "state", "new"] {
      #expect(throws: StoreError.access) { try hostile.write(backend / key, "x") }
    }
    #expect(throws: StoreError.access) { try hostile.remove(backend) }
    for path in ["/local/domain/1/name", "/local/domain/1/domid", "/local/domain/0/mine", "/libxl/1"] {
      #expect(throws: StoreError.access, "\(path)") { try hostile.write(path, "x") }
    }
    let mine = StorePermissions(owner: machine.guest.id)
    #expect(throws: StoreError.access) { try hostile.setPermissions(backend, mine) }
    disk.detach()
  }
}
