// SPDX-License-Identifier: MIT

import Glibc
import Testing
import XenPlatform

@Suite("A real Xen under this process")
struct XenHostTests {
  /// Whether this machine is a domain of a Xen host, with the devices that a backend needs.
  static var isThere: Bool { unsafe access("/dev/xen/gntdev", R_OK | W_OK) == 0 }

  @Test("where there is none, a sentence says what is missing and what to do", .disabled(if: XenHostTests.isThere))
  func missing() throws {
    let error = try #require(throws: XenHostError.self) { try XenHost() }
    switch error {
    case .library(let what):
      #expect(what.contains("libxen"))
      #expect(error.description.contains("apt-get install"))
    case .device(let path, let code):
      #expect(path.hasPrefix("/dev/xen/"))
      #expect(code == ENOENT || code == EACCES || code == ENODEV)
      #expect(error.description.contains("xen-gntdev"))
    }
  }
}
