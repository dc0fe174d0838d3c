// SPDX-License-Identifier: MIT

import GuestMemory
import Testing

@Suite("Shared memory")
struct SharedRegionTests {
  @Test("two mappings of one memfd show the same bytes")
  func mappingsShareBytes() throws {
    let file = try MemoryFile(name: "test", byteCount: 8192)
    let first = try file.map()
    let second = try file.map()
    first.region.store(UInt32(0xDEAD_BEEF), at: 4096)
    #expect(second.region.load(UInt32.self, at: 4096) == 0xDEAD_BEEF)
    #expect(first.region.address != second.region.address)
  }

  @Test("an access outside the region stops the process")
  func outsideTraps() async {
    await #expect(processExitsWith: .failure) {
      let memory = try MappedMemory(anonymousByteCount: 4096)
      memory.region.store(UInt32(1), at: 4093)
    }
  }
}
