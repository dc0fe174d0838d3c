// SPDX-License-Identifier: MIT

import Testing

@Suite("What a running disk tells Prometheus")
struct MetricsTests {
  @Test("is OpenMetrics text to the letter, and counts what was done")
  func metrics() throws {
    let scene = try Scene(size: nil)
    // A name that must be escaped.
    try scene.ok(#"mkdir 'a"b\c' && pvdisk create 'a"b\c/d.img' 8M"#)
    try scene.ok(#"pvdisk mount --daemonize --queues 2 'a"b\c/d.img' m && mkdir n && pvdisk create e.img 4M"#)
    let text = try scene.ok(
      """
      pvdisk attach e.img n --to m >/dev/null
      dd if=/dev/zero of=m/xvda bs=64k count=20 conv=notrunc oflag=direct status=none
      dd if=m/xvda of=/dev/null bs=4k count=30 iflag=direct status=none
      sync m/xvda
      pvdisk status --metrics
      pvdisk umount n && pvdisk umount m
      """)
    let reader = OpenMetricsReader(text)
    #expect(reader.complaints.isEmpty, "\(reader.complaints.joined(separator: "\n"))")
    let disks = Set(reader.families["pvdisk_disk"]?.samples.compactMap { $0.labels["disk"] } ?? [])
    #expect(disks.contains("\(scene.folder)/m/xvda") && disks.contains("\(scene.folder)/n/xvdb"))
    let info = reader.families["pvdisk_disk"]?.samples.first { $0.labels["disk"] == "\(scene.folder)/m/xvda" }
    #expect(info?.labels["image"] == #"\#(scene.folder)/a"b\c/d.img"#)
    func sum(_ family: String, _ suffix: String, _ labels: [String: String] = [:]) -> Double {
      var all = labels
      all["disk"] = "\(scene.folder)/m/xvda"
      return (reader.families[family]?.samples ?? []).filter { sample in
        sample.name == family + suffix && all.allSatisfy { sample.labels[$0.key] == $0.value }
      }.reduce(0) { $0 + $1.number }
    }
    #expect(sum("pvdisk_backend_wr_sect", "_total") == 20 * 128)
    #expect(sum("pvdisk_backend_rd_sect", "_total") >= 30 * 8)
    #expect(sum("pvdisk_backend_f_req", "_total") >= 1)
    #expect(sum("pvdisk_disk_size_bytes", "") == Double(8 << 20))
    let latency = "pvdisk_io_latency_seconds"
    #expect(sum(latency, "_count", ["operation": "write"]) == 20)
    #expect(sum(latency, "_count", ["operation": "read"]) >= 30)
    #expect(sum(latency, "_sum", ["operation": "write"]) > 0)
    #expect(sum(latency, "_bucket", ["operation": "write", "le": "+Inf"]) == 20)
  }

  @Test("is read by a reader that refuses what the format does not allow")
  func strictness() {
    let head = "# TYPE a counter\n# HELP a text\n"
    let histogram = "# TYPE h histogram\n# HELP h text\n"
    for text in [
      "", head + "a_total 1\n", "a_total 1\n# EOF", head + "a 1\n# EOF", head + "a_total{x=1} 1\n# EOF",
      head + "a_total -1\n# EOF", head + "a_total one\n# EOF", head + "a_total 1\na_total 2\n# EOF",
      head + "a_total{x=\"\\q\"} 1\n# EOF", head + "a_total{x=\"1\",x=\"2\"} 1\n# EOF", head + "a_total  1\n# EOF",
      head + "a_total 1\n# TYPE b gauge\n# HELP b text\nb 1\n# HELP a again\n# EOF", "# EOF\n# EOF",
      "# TYPE a number\n# HELP a text\na 1\n# EOF",
      "# TYPE a_seconds gauge\n# UNIT a_seconds bytes\n# HELP a_seconds x\na_seconds 1\n# EOF",
      histogram + "h_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_count 1\nh_sum 1\n# EOF",
      histogram + "h_bucket{le=\"1\"} 1\nh_count 1\nh_sum 1\n# EOF",
      histogram + "h_bucket{le=\"2\"} 1\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_count 1\nh_sum 1\n# EOF",
      histogram + "h_bucket{le=\"+Inf\"} 2\nh_count 1\nh_sum 1\n# EOF",
    ] { #expect(!OpenMetricsReader(text).complaints.isEmpty, "\(text)") }
    let good =
      head + "a_total{x=\"a\\\"b\\\\c\\n\",y=\"\"} 1\n" + histogram
      + "h_bucket{le=\"0.5\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_count 2\nh_sum 0.7\n# EOF\n"
    let reader = OpenMetricsReader(good)
    #expect(reader.complaints.isEmpty && reader.families["a"]?.samples.first?.labels["x"] == "a\"b\\c\n")
  }
}
