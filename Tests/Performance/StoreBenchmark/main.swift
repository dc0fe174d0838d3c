// SPDX-License-Identifier: MIT

// How fast the store is: through its socket beside a bare echo of the same messages, and in process; and what a large
// tree costs. `store-benchmark [seconds a figure]`; the printed figures are medians, taken by turns.
// 'ratio' compares round trips a second, 'by CPU' round trips for each second of processor time that clients and server took
// together: on a machine that does other things too, the first says more of those than of the store. All threads share one CPU: where
// the kernel puts a server beside its client would otherwise decide, and it decides differently for store and echo.
// Exit status 5 when the socket is below half of the echo by both, or when an operation is more than five times slower in a
// tree of 100 000 nodes with 10 000 watches than in a small one.

import CLinux
import Glibc
import XenStore
import XenWire

let seconds = CommandLine.arguments.dropFirst().first.flatMap(Double.init) ?? 0.2
// SAFETY: only the main thread touches these.
/// The verdict, and what must live to the end.
enum Outcome {
  nonisolated(unsafe) static var isGood = true
  /// Connections whose watches must stay.
  nonisolated(unsafe) static var kept: [StoreConnection] = []
}

func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

func padded(_ text: String, _ width: Int) -> String { text + String(repeating: " ", count: max(0, width - text.count)) }

func aligned(_ text: String, _ width: Int) -> String {
  String(repeating: " ", count: max(0, width - text.count)) + text
}

func number(_ value: Double) -> String { aligned("\(Int(value))", 11) }

func ratio(_ value: Double) -> String { aligned("\((value * 100).rounded() / 100)", 7) }

/// Operations a second of a call in this process.
func rate(_ body: () throws -> Void) throws -> Double {
  let start = pv_monotonic_nanoseconds()
  let end = start + UInt64(seconds * 1e9)
  var count = 0
  while pv_monotonic_nanoseconds() < end {
    for _ in 0..<16 { try body() }
    count += 16
  }
  return Double(count) / (Double(pv_monotonic_nanoseconds() - start) / 1e9)
}

/// A rate by the clock, and by the processor time of this process.
struct Rate {
  let wall: Double
  let processor: Double

  /// Takes the rate that a body answers, and what it cost.
  static func of(_ body: () -> Double) -> Rate {
    let (start, before) = (pv_monotonic_nanoseconds(), processorNanoseconds())
    let wall = body()
    let spent = max(processorNanoseconds() - before, 1)
    return Rate(wall: wall, processor: wall * Double(pv_monotonic_nanoseconds() - start) / Double(spent))
  }

  private static func processorNanoseconds() -> UInt64 {
    var time = timespec()
    // SAFETY: the address is of a local value.
    unsafe clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }
}

/// Something that is measured at the store and at the echo, by turns, and in this process.
struct Comparison {
  let name: String
  let store: () -> Rate
  let echo: () -> Rate
  let near: () throws -> Double
}

/// How often the store and the echo take turns.
let turns = 45

/// Prints the medians of many short turns: a machine that others use too slows both down alike.
func compare(_ clients: Int, _ comparison: Comparison) throws {
  var found: [Double] = [], plain: [Double] = [], ratios: [Double] = [], costs: [Double] = []
  for _ in 0..<turns {
    let (store, echo) = (comparison.store(), comparison.echo())
    found.append(store.wall)
    plain.append(echo.wall)
    ratios.append(store.wall / echo.wall)
    costs.append(store.processor / echo.processor)
  }
  let near = try (0..<5).map { _ in try comparison.near() }
  if max(median(ratios), median(costs)) < 0.5 { unsafe Outcome.isGood = false }
  print(
    padded("  \(clients) clients, \(comparison.name)", 34) + number(median(found)) + " " + number(median(plain))
      + ratio(median(ratios)) + "  " + ratio(median(costs)) + number(median(near)))
}

/// Events of one writer, at all clients, beside an echo to all of them.
func compareEvents(
  _ count: Int, _ server: StoreServer, _ control: StoreConnection, _ driver: SocketDriver, _ yardstick: SocketDriver
) throws {
  let slice = seconds / 9
  let watchers = (0..<count).map { _ in server.connect(as: .control) }
  driver.setWatches(true)
  let outside = (0..<turns).map { _ in
    (Rate.of { driver.events(seconds: slice) }, Rate.of { yardstick.eventEchoes(seconds: slice) })
  }
  driver.setWatches(false)
  for watcher in watchers { try watcher.watch("/bench/w", token: "t") }
  var turn = 0
  try compare(
    count,
    Comparison(
      name: "events of one writer",
      store: {
        turn += 1
        return outside[turn - 1].0
      }, echo: { outside[turn - 1].1 },
      near: {
        try rate {
          try control.write("/bench/w", "v")
          for watcher in watchers { while watcher.nextEvent() != nil {} }
        } * Double(count)
      }))
}

/// The socket beside the echo.
func measureSockets() throws {
  print("through the socket                    a second        echo   ratio   by CPU in process")
  let path = "/tmp/store-benchmark.\(getpid())"
  let slice = seconds / 9
  for count in [1, 8, 64] {
    let server = StoreServer()
    let control = server.connect(as: .control)
    try control.write("/bench/n", "value")
    for index in 0..<count { try control.write("/bench/t\(index)", "value") }
    let socket = try StoreSocketServer(server: server, path: path)
    let transports = try (0..<count).map { _ in try StoreSocketTransport(path: path) }
    let echo = EchoServer(clients: count)
    let driver = SocketDriver(descriptors: transports.map(\.descriptor))
    let yardstick = SocketDriver(descriptors: echo.descriptors)
    let read = SocketDriver.message(.read, "/bench/n\0"), write = SocketDriver.message(.write, "/bench/n\0value")
    try compare(
      count,
      Comparison(
        name: "reads", store: { Rate.of { driver.roundTrips(read, seconds: slice) } },
        echo: { Rate.of { yardstick.roundTrips(read, seconds: slice) } },
        near: { try rate { _ = try control.readBytes("/bench/n") } }))
    try compare(
      count,
      Comparison(
        name: "writes", store: { Rate.of { driver.roundTrips(write, seconds: slice) } },
        echo: { Rate.of { yardstick.roundTrips(write, seconds: slice) } },
        near: { try rate { try control.write("/bench/n", "value") } }))
    try compare(
      count,
      Comparison(
        name: "transactions", store: { Rate.of { driver.transactions(seconds: slice, isReal: true) } },
        echo: { Rate.of { yardstick.transactions(seconds: slice, isReal: false) } },
        near: {
          try rate {
            try control.transaction { (transaction) throws(StoreError) in
              _ = try control.readBytes("/bench/t0", in: transaction)
              try control.write("/bench/t0", "value", in: transaction)
            }
          }
        }))
    try compareEvents(count, server, control, driver, yardstick)
    for var transport in transports { transport.close() }
    echo.stop()
    socket.stop()
  }
}

/// What each operation costs, in process; the store may be small or large.
func operations(_ server: StoreServer, _ control: StoreConnection, guests: DomainID) -> [(String, () throws -> Void)] {
  var turn = 0
  let watcher = server.connect(as: .control)
  return [
    ("read", { _ = try control.readBytes("/bench/n") }),
    ("write", { try control.write("/bench/n", "value") }),
    ("directory of ten", { _ = try control.directory("/bench/ten") }),
    ("get permissions", { _ = try control.permissions("/bench/n") }),
    ("set permissions", { try control.setPermissions("/bench/n", StorePermissions(owner: .control)) }),
    (
      "create and remove",
      {
        try control.write("/bench/many/new", "value")
        try control.remove("/bench/many/new")
      }
    ),
    (
      "transaction: read, write",
      {
        try control.transaction { (transaction) throws(StoreError) in
          _ = try control.readBytes("/bench/n", in: transaction)
          try control.write("/bench/n", "value", in: transaction)
        }
      }
    ),
    (
      "watch and unwatch",
      {
        turn += 1
        try watcher.watch("/bench/n", token: "\(turn)")
        try watcher.unwatch("/bench/n", token: "\(turn)")
        _ = watcher.nextEvent()
      }
    ),
    (
      "write seen by one watch",
      {
        try control.write("/bench/seen", "value")
        _ = watcher.nextEvent()
      }
    ),
    (
      "guest comes and goes",
      {
        try server.introduce(guests)
        try control.makeDirectory(StorePath.home(of: guests))
        try control.setPermissions(StorePath.home(of: guests), StorePermissions(owner: guests))
        try server.release(guests)
      }
    ),
  ]
}

func makeStore(nodes: Int, watches: Int) throws -> (StoreServer, StoreConnection) {
  let server = StoreServer()
  let control = server.connect(as: .control)
  try control.write("/bench/n", "value")
  try control.write("/bench/seen", "value")
  for index in 0..<10 { try control.write("/bench/ten/\(index)", "") }
  for index in 0..<(nodes / 2) { try control.write("/bench/many/\(index)", "value") }
  for index in 0..<(nodes / 2) { try control.write("/bench/deep/\(index / 100)/\(index % 100)", "value") }
  let others = server.connect(as: .control)
  for index in 0..<watches { try others.watch("/bench/deep/\(index / 100)/\(index % 100)", token: "\(index)") }
  while others.nextEvent() != nil {}
  unsafe Outcome.kept.append(others)
  return (server, control)
}

/// The same operations in a small and in a large store, by turns.
func measureSize() throws {
  print("\nin process                            a second  100k nodes    cost")
  let guest = DomainID(rawValue: 9)
  let (small, smallControl) = try makeStore(nodes: 100, watches: 10)
  let (large, largeControl) = try makeStore(nodes: 100_000, watches: 10_000)
  let few = operations(small, smallControl, guests: guest), many = operations(large, largeControl, guests: guest)
  for (left, right) in zip(few, many) {
    var found: [Double] = [], heavy: [Double] = [], costs: [Double] = []
    for _ in 0..<5 {
      found.append(try rate(left.1))
      heavy.append(try rate(right.1))
      costs.append((found.last ?? 0) / (heavy.last ?? 1))
    }
    if median(costs) > 5 { unsafe Outcome.isGood = false }
    print(padded("  \(left.0)", 34) + number(median(found)) + " " + number(median(heavy)) + ratio(median(costs)))
  }
}

_ = pv_pin_thread(0)
try measureSockets()
_ = pv_unpin_thread()
try measureSize()
exit(unsafe Outcome.isGood ? 0 : 5)
