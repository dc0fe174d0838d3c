// SPDX-License-Identifier: MIT

import CLinux
import Figures
import Glibc
import GuestMemory
import PVMachine
import Synchronization

/// The traffic of ``RingTraffic`` between two threads on two CPUs, over real memory.
///
/// Neither thread sleeps: the events are stored and looked at as the rules say, and nobody is notified.
final class RingTrafficRun: Sendable {
  private let traffic: RingTraffic
  private let memory: MappedMemory
  private let stop = Atomic<Bool>(false)

  init(_ traffic: RingTraffic) throws(SystemError) {
    self.traffic = traffic
    memory = try MappedMemory(anonymousByteCount: PageGeometry.pages(for: traffic.byteCount) << PageGeometry.pageShift)
  }

  /// Nanoseconds for each request: the median over short pieces of a run of about `duration`.
  ///
  /// A piece in which one of the threads was without a CPU takes thousands of times as long as the others; the median does not
  /// see it as long as such pieces are few.
  func run(duration: UInt64) -> Double {
    memory.region.fill(0)
    let back = LabThread(cpu: 1) { [self] in serve() }
    let result = ResultBox()
    let front = LabThread(cpu: 0) { [self] in
      let pieces = ask(duration: duration)
      result.value.withLock { $0 = Sample(pieces).median }
    }
    front.join()
    stop.store(true, ordering: .releasing)
    back.join()
    return result.value.withLock { $0 }
  }

  private final class ResultBox: Sendable {
    let value = Mutex(0.0)
  }

  private func ask(duration: UInt64) -> [Double] {
    let region = memory.region
    let words = TrafficWords(traffic, region)
    var next: UInt64 = 0
    var pieces: [Double] = []
    pieces.reserveCapacity(1 << 16)
    let start = pv_monotonic_nanoseconds()
    var last = start
    repeat {
      for _ in 0..<8 {
        for index in next..<next + UInt64(traffic.batch) { TrafficWords.store(index, traffic.request(index), region) }
        next += UInt64(traffic.batch)
        words.requestProducer.storeReleasing(UInt32(truncatingIfNeeded: next))
        pv_full_barrier()
        _ = words.requestEvent.loadRelaxed()
        var looks = 0
        while words.responseProducer.loadAcquiring() != UInt32(truncatingIfNeeded: next) { relax(&looks) }
        for index in next - UInt64(traffic.batch)..<next { TrafficWords.load(traffic.response(index), region) }
        words.responseConsumer?.storeReleasing(UInt32(truncatingIfNeeded: next))
        words.responseEvent.storeRelaxed(UInt32(truncatingIfNeeded: next + 1))
        pv_full_barrier()
      }
      let now = pv_monotonic_nanoseconds()
      pieces.append(Double(now - last) / Double(8 * traffic.batch))
      last = now
    } while last - start < duration && pieces.count < pieces.capacity
    return pieces
  }

  /// Looks again; on a machine with too few CPUs the other thread has to get one.
  private func relax(_ looks: inout Int) {
    pv_cpu_relax()
    looks &+= 1
    if looks & 0xFFF == 0 { sched_yield() }
  }

  private func serve() {
    let region = memory.region
    let words = TrafficWords(traffic, region)
    var next: UInt64 = 0
    var looks = 0
    while true {
      let producer = words.requestProducer.loadAcquiring()
      if producer == UInt32(truncatingIfNeeded: next) {
        if stop.load(ordering: .acquiring) { return }
        relax(&looks)
        continue
      }
      _ = words.responseConsumer?.loadRelaxed()
      while producer != UInt32(truncatingIfNeeded: next) {
        TrafficWords.load(traffic.request(next), region)
        TrafficWords.store(next, traffic.response(next), region)
        next += 1
      }
      words.responseProducer.storeReleasing(producer)
      pv_full_barrier()
      _ = words.responseEvent.loadRelaxed()
      words.requestEvent.storeRelaxed(producer &+ 1)
      pv_full_barrier()
    }
  }
}

/// The index words in memory, and what is done with slots.
private struct TrafficWords {
  let requestProducer: SharedWord<UInt32>
  let requestEvent: SharedWord<UInt32>
  let responseProducer: SharedWord<UInt32>
  let responseEvent: SharedWord<UInt32>
  let responseConsumer: SharedWord<UInt32>?

  init(_ traffic: RingTraffic, _ region: SharedRegion) {
    func word(_ name: String) -> SharedWord<UInt32> {
      guard let offset = traffic.word(name) else { preconditionFailure("every ring has a \(name)") }
      return region.word32(at: offset)
    }
    requestProducer = word("request producer")
    requestEvent = word("request event")
    responseProducer = word("response producer")
    responseEvent = word("response event")
    responseConsumer = traffic.word("response consumer").map { region.word32(at: $0) }
  }

  @inline(__always)
  static func store(_ value: UInt64, _ run: RingTraffic.Run, _ region: SharedRegion) {
    for offset in stride(from: 0, to: run.byteCount & ~3, by: 4) {
      region.store(UInt32(truncatingIfNeeded: value), at: run.offset + offset)
    }
  }

  @inline(__always)
  static func load(_ run: RingTraffic.Run, _ region: SharedRegion) {
    for offset in stride(from: 0, to: run.byteCount & ~3, by: 4) {
      _ = region.load(UInt32.self, at: run.offset + offset)
    }
  }
}
