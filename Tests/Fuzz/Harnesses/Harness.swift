// SPDX-License-Identifier: MIT

import PVPeers

/// What a fuzzer's inputs are run on, one after the other: a world that is made once and stays up.
///
/// An input is worth little when it takes longer to build the world than to run it. So `run` leaves the world as it found it,
/// and ``KeptHarness`` sees that this is so: an input that breaks something does it alone, too.
protocol Harness: AnyObject {
  /// What the mangled names of functions contain whose branches count: of the modules that its inputs can reach.
  static var focus: String { get }
  /// Makes a world.
  init() throws
  /// Runs one input, puts the world back, and answers a number that says what came out.
  ///
  /// - Parameter isThorough: looks also at what is dear to look at.
  func run(_ input: inout FuzzInput, isThorough: Bool) throws -> UInt64
}

/// A harness whose world is kept from input to input.
///
/// libFuzzer spends more time on choosing an input, and on looking at what it reached, than most inputs take to run. So each of its
/// inputs is followed by some neighbours: the same bytes with a few changed, by luck that the bytes themselves decide.
/// What neighbours reach counts for the input, and it finds them again.
///
/// The first input and each 16 384th one also run in a world that is made for them, and must come out the same: nothing that an
/// earlier input did is left. The first and each 256th are looked at thoroughly.
final class KeptHarness {
  private let kind: any Harness.Type
  private let kept: any Harness
  private let neighbours: Int
  private var neighbour: [UInt8] = []
  /// Inputs that have been run, neighbours too.
  private(set) var count = 0

  init(_ kind: any Harness.Type, neighbours: Int = 0) throws {
    self.kind = kind
    self.neighbours = neighbours
    kept = try kind.init()
  }

  /// Runs an input, calls `then`, and runs its neighbours.
  func run(_ bytes: [UInt8], then: () -> Void = {}) throws {
    try runOne(bytes)
    then()
    var luck = FuzzLuck(bytes)
    for _ in 0..<neighbours {
      luck.change(bytes, into: &neighbour)
      try runOne(neighbour)
    }
  }

  private func runOne(_ bytes: [UInt8]) throws {
    try run(bytes, isThorough: count & 255 == 0, isCompared: count & 16383 == 0)
    count += 1
  }

  func run(_ bytes: [UInt8], isThorough: Bool, isCompared: Bool) throws {
    var input = FuzzInput(bytes)
    let outcome = try kept.run(&input, isThorough: isThorough)
    guard isCompared else { return }
    var again = FuzzInput(bytes)
    let new = try kind.init().run(&again, isThorough: true)
    demand(new == outcome, "an input comes out the same whatever ran before it")
  }
}

/// A running hash of what came out (FNV-1a, a word at a time).
struct Outcome {
  private(set) var value: UInt64 = 0xCBF2_9CE4_8422_2325

  mutating func note(_ word: UInt64) { value = (value ^ word) &* 0x100_0000_01B3 }
  mutating func note(_ word: some BinaryInteger) { note(UInt64(truncatingIfNeeded: word)) }
  mutating func note(_ isSo: Bool) { note(isSo ? 1 as UInt64 : 0) }
}

/// The harnesses by name.
enum Harnesses {
  static var all: [String: any Harness.Type] {
    [
      "ring": RingHarness.self, "response": ResponseHarness.self, "wire": WireHarness.self, "node": NodeHarness.self,
      "fuse": FuseHarness.self, "image": ImageHarness.self, "command": CommandHarness.self,
    ]
  }
}
