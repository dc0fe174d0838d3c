// SPDX-License-Identifier: MIT

import Testing

/// Options of a mount, and words that `status --json` must show of what was agreed on.
struct RingWay: CustomTestStringConvertible, Sendable {
  let testDescription: String
  let agreed: [String]

  init(_ options: String, _ agreed: String...) {
    testDescription = options
    self.agreed = agreed
  }

  static let all: [RingWay] = [
    RingWay(
      "--protocol slim32 --split --whole-page", "\"variant\" : \"slim32\"", "\"split\" : true", "\"slotBytes\" : 32"),
    RingWay("--protocol slim64 --dif slot --abi x86_32", "\"variant\" : \"slim64\"", "\"dif\" : \"slot\""),
    RingWay("--protocol wide --indirect-segments 64 --align 128", "\"alignment\" : 128", "\"segments\" : 64"),
    RingWay("--protocol segment-ring --segment-entry 6 --notify poll", "\"notifyBack\" : \"poll\""),
    RingWay("--dif sector --split --split-indices together", "\"dif\" : \"sector\"", "\"splitIndices\" : \"together\""),
    RingWay("--protocol slim32 --notify holdoff/adaptive --back-protocol classic", "\"variant\" : \"classic\""),
  ]
}

@Suite("A mounted disk with every form of the rings")
struct RingFormTests {
  @Test("data comes back, and status says what was agreed on", arguments: RingWay.all)
  func mounted(way: RingWay) throws {
    for placement in ["inline", "threads"] {
      let scene = try Scene()
      let status = try scene.ok(
        """
        head -c 5000000 /dev/urandom > data
        pvdisk mount --daemonize --placement \(placement) \(way.testDescription) d.img m &&
          dd if=data of=m/xvda bs=1M conv=notrunc,fsync status=none && cmp -n 5000000 data m/xvda &&
          pvdisk status m --json && pvdisk umount m && cmp -n 5000000 data d.img
        """)
      for word in way.agreed { #expect(status.contains(word), "\(placement): \(word) in \(status)") }
    }
  }

  @Test("what does not go together is refused with a sentence and status 1")
  func refused() throws {
    let scene = try Scene()
    for (options, words) in [
      ("--protocol slim32 --dif slot", "--dif slot needs slots with room for it"),
      ("--protocol slim32 --abi arm", "a slim32 slot is the same on every ABI"),
      ("--protocol x86_32 --abi arm", "two ABIs"),
      ("--protocol slim64 --indirect-segments 300", "can be 256 at most, not 300"),
      ("--protocol wide --indirect-segments 5", "must be between 11 and 256, not 5"),
      ("--align 32", "--align must be 64 or 128, not 32"),
      ("--segment-entry 6", "--segment-entry is for --protocol segment-ring"),
      ("--split-indices together", "--split-indices is for --split rings"),
      ("--response-pages 2", "--response-pages is for --split rings"),
      ("--protocol nonsense", "nonsense"),
    ] {
      let outcome = try scene.shell("pvdisk run \(options) d.img -- true")
      #expect(outcome.status == 1 && outcome.errors.contains(words), "\(options): \(outcome)")
    }
  }
}
