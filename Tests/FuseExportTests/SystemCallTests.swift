// SPDX-License-Identifier: MIT

import BlockIO
import FuseExport
import Glibc
import PVTestSupport
import Testing

@Suite("System calls for a request")
struct SystemCallTests {
  /// What `readers` readers of 500 blocks each cost in system calls of the reactors.
  private func cost(_ transport: FuseTransportChoice, readers: Int) throws -> FuseStatistics {
    var behaviour = MemoryDisk.Behaviour()
    behaviour.queueCount = 1
    let disk = try MemoryDisk(geometry: BlockGeometry(sectorCount: 8192), behaviour: behaviour)
    let mounted = try MountedDisk(disk) { $0.transport = transport }
    let path = mounted.path
    // What opening and looking up cost is not counted.
    _ = try OpenFile(path).read(512, at: 0)
    let before = mounted.mount.statistics
    let threads = (0..<readers).map { reader in
      TestThread {
        let file = try OpenFile(path)
        for block in 0..<500 { _ = try file.read(4096, at: (block + reader) % 1000 * 4096) }
      }
    }
    for thread in threads { try thread.value() }
    var statistics = mounted.mount.statistics
    mounted.end()
    statistics.reads -= before.reads
    statistics.receiveCalls -= before.receiveCalls
    statistics.answerCalls -= before.answerCalls
    statistics.wakeUps -= before.wakeUps
    statistics.sleepsInRead -= before.sleepsInRead
    return statistics
  }

  @Test(
    "over /dev/fuse: one to answer, one to fetch, one to sleep unless that is the same, and seldom one in vain",
    arguments: [(1, 1.5), (8, 3.2)])
  func device(_ readers: Int, _ most: Double) throws {
    let statistics = try cost(.device, readers: readers)
    let reads = Double(statistics.reads)
    #expect(statistics.reads == UInt64(readers) * 500)
    #expect(Double(statistics.answerCalls) / reads <= 1.1)
    #expect(Double(statistics.receiveCalls + statistics.wakeUps - statistics.sleepsInRead) / reads <= most)
  }

  @Test(
    "over io_uring: one for everything, and less than one when there is more to do",
    .enabled(if: Transports.available.contains(.ring)), arguments: [1, 8])
  func ring(_ readers: Int) throws {
    let statistics = try cost(.ring, readers: readers)
    let reads = Double(statistics.reads)
    #expect(statistics.reads == UInt64(readers) * 500)
    #expect(statistics.answerCalls == 0)
    // Each sleep is one of these calls, too; opening and closing adds a few.
    #expect(Double(statistics.receiveCalls) / reads <= 1.2)
  }
}
