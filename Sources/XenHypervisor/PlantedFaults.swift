// SPDX-License-Identifier: MIT

/// A bug of the past that a debug build can be told to have again, so that a test proves that it would notice.
enum PlantedFault: UInt32, CaseIterable, Sendable {
  case none
}

/// The bugs that one hypervisor was told to have.
///
/// Release builds cannot be told: there the set holds nothing, the answer is a constant and the branches vanish.
struct PlantedFaults: Sendable {
  #if DEBUG
    private var bits: UInt64 = 0

    init(_ faults: PlantedFault...) {
      for fault in faults { bits |= 1 << UInt64(fault.rawValue) }
    }

    func has(_ fault: PlantedFault) -> Bool { bits & (1 << UInt64(fault.rawValue)) != 0 }
  #else
    init() {}

    @inline(__always) func has(_ fault: PlantedFault) -> Bool { false }
  #endif
}
