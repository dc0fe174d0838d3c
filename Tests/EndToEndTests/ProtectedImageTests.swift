// SPDX-License-Identifier: MIT

import Testing

@Suite("A mounted disk whose image is protected")
struct ProtectedImageTests {
  @Test("names the sector that a bad disk has spoilt, fails its reads alone, and is mended by writing it")
  func flippedBit() throws {
    let scene = try Scene(size: "4M")
    for options in ["--protect-image", "--protect-image --dif sector --dif-type 3 --dif-guard ip --queues 2"] {
      try scene.mounted(options) { () throws -> Void in
        _ = try scene.ok("yes 0123456789abcde | head -c 1M | dd of=m/xvda bs=64k conv=notrunc,fsync status=none")
      }
      try scene.ok("printf X | dd of=d.img bs=1 seek=34000 conv=notrunc status=none")
      let outcome = try scene.shell(
        """
        pvdisk mount \(options) d.img m 2>mount.err &
        for i in $(seq 200); do pvdisk status m >/dev/null 2>&1 && break; sleep 0.05; done
        dd if=m/xvda of=/dev/null bs=4k skip=8 count=1 iflag=direct; echo "bad $?"
        dd if=m/xvda of=/dev/null bs=4k skip=9 count=64 iflag=direct status=none; echo "good $?"
        pvdisk status m --json > status.json
        yes 0123456789abcde | head -c 4k | dd of=m/xvda bs=4k seek=8 conv=notrunc oflag=direct status=none; echo "mend $?"
        dd if=m/xvda of=/dev/null bs=4k skip=8 count=1 iflag=direct status=none; echo "again $?"
        pvdisk umount m; wait
        """)
      #expect(outcome.output == "bad 1\ngood 0\nmend 0\nagain 0\n", "\(outcome)")
      #expect(outcome.errors.contains("Input/output error"), "\(outcome)")
      let sentence = "d.img: sector 66 is not as it was written: its guard tag is 0x"
      let errors = try Files.text("\(scene.folder)/mount.err")
      #expect(errors.contains(sentence), "\(errors)")
      let status = try Files.text("\(scene.folder)/status.json")
      #expect(status.contains("\"sector 66 is not as it was written"), "\(status)")
      #expect(try scene.ok("head -c 1M d.img | cmp - <(yes 0123456789abcde | head -c 1M) && echo same") == "same\n")
    }
  }

  @Test("of another form of tuples, or of tuples without --dif, is refused with a sentence")
  func refusals() throws {
    let scene = try Scene(size: "1M")
    for (options, sentence) in [
      ("--dif-type 2", "--dif slot or sector"), ("--dif sector --dif-type 4", "must be 1, 2 or 3"),
      ("--dif-guard ip", "--dif slot or sector"),
    ] {
      let outcome = try scene.shell("pvdisk mount \(options) d.img m")
      #expect(outcome.status != 0 && outcome.errors.contains(sentence), "\(options): \(outcome)")
    }
    let shown = try scene.mounted("--dif sector --dif-type 3 --dif-guard ip") {
      try scene.ok(
        "pvdisk status m --json | python3 -c 'import json,sys; r=json.load(sys.stdin)[\"rings\"]; print(r[\"dif\"],r[\"difType\"],r[\"difGuard\"])'"
      )
    }
    #expect(shown == "sector 3 ip\n")
  }
}
