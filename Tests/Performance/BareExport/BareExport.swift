// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import DiskImages
import FuseExport
import Glibc

/// The comparator "bare": pvdisk's own FUSE code on the image itself, without the PV stack.
///
/// What the stack costs is the difference.
///
///     bare-export IMAGE DIRECTORY [dev|uring]      shows IMAGE as DIRECTORY/disk until unmounted
@main
enum BareExport {
  static func main() {
    let words = CommandLine.arguments
    guard words.count >= 3 else { return fail("usage: bare-export IMAGE DIRECTORY [dev|uring]") }
    let queues = min(max(Int(pv_cpu_count()), 1), 4)
    var options = FuseOptions(mountPoint: words[2])
    options.fileName = "disk"
    options.transport = words.count > 3 && words[3] == "uring" ? .ring : .device
    do {
      let image = try RawImage.open(path: words[1], options: ImageOptions(mappedReads: .whenCached, queueCount: queues))
      let mount = try FuseMount.mount(device: image, options: options)
      try mount.start()
      _ = mount.waitUntilUnmounted()
      try image.close()
    } catch { fail("bare-export: \(error)") }
  }

  private static func fail(_ sentence: String) {
    let line = Array((sentence + "\n").utf8)
    // SAFETY: the bytes of a local array, with its length.
    unsafe _ = write(2, line, line.count)
    exit(2)
  }
}
