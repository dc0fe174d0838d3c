// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import DiskImages
import GuestMemory
import PVMachine
import PVTestSupport
import Testing

@Suite("Notifications for a request")
struct StackCountTests {
  /// Notifications of both ends for one request, with `depth` in flight.
  private func notifications(depth: Int, placement: Placement) throws -> Double {
    var configuration = DiskConfiguration()
    configuration.placement = placement
    let disk = try Machine().attach(NullImage(sectorCount: 1 << 16), as: configuration)
    let benchmark = StackBenchmark(access: .randomRead, blockByteCount: 4096, depth: depth, duration: 50_000_000)
    let requests: UInt64
    do {
      var queue = try disk.makeQueue(0, buffers: benchmark.demand)
      requests = benchmark.run(on: &queue, sectorCount: 1 << 16).requests
    }
    let sent =
      disk.counters[0].front[FrontCounter.notifications.rawValue]
      + disk.counters[0].back[QueueCounter.notifications.rawValue]
    #expect(disk.counters[0].front[FrontCounter.requests.rawValue] == requests)
    disk.detach()
    return Double(sent) / Double(requests)
  }

  @Test("with 32 requests in flight, hold-off leaves at most one notification for four requests")
  func batched() throws {
    #expect(try notifications(depth: 32, placement: .inline) <= 0.25)
  }
}
