// SPDX-License-Identifier: MIT

import PVMachine
import XenBus
import XenWire

extension StackTrial {
  /// Makes the trial's rings of a form.
  mutating func speak(_ variant: RingVariant, segments: Int, split: Bool = false, wholePage: Bool = false) {
    configuration.rings.variant = variant
    configuration.rings.isSplit = split
    configuration.rings.usesWholePage = wholePage
    configuration.indirectSegments = segments
    if variant == .wide { configuration.rings.segmentsPerRequest = segments }
  }

  /// The forms that are compared as whole stacks, each at its longest request up to 1 MiB.
  static func forms(_ change: @escaping @Sendable (inout StackTrial) -> Void) -> [StackTrial] {
    let forms: [(String, @Sendable (inout StackTrial) -> Void)] = [
      ("classic, 11 segments", { $0.configuration.indirectSegments = 0 }),
      ("classic, indirect 32", { $0.configuration.indirectSegments = 32 }),
      ("classic, indirect 256", { _ in }),
      ("wide 256", { $0.speak(.wide, segments: 256) }),
      ("segment-ring", { $0.speak(.segmentRing, segments: 256) }),
      ("slim64", { $0.speak(.slim64, segments: 256) }),
      ("slim32", { $0.speak(.slim32, segments: 1024) }),
      ("slim32, split, whole page", { $0.speak(.slim32, segments: 1024, split: true, wholePage: true) }),
    ]
    return forms.map { name, form in
      StackTrial(name) {
        form(&$0)
        change(&$0)
      }
    }
  }
}
