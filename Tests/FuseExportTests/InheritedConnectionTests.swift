// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import CSlowStart
import FuseExport
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@Suite("A process that is being started while a mount ends")
struct InheritedConnectionTests {
  @Test(
    "is not held up by the files that it closes, though it has a copy of the connection", .timeLimit(.minutes(1)),
    .enabled(if: geteuid() == 0), arguments: Transports.available)
  func starting(_ transport: FuseTransportChoice) throws {
    let mounted = try UnmountTests.mounted(transport)
    // No file of the mount has been closed yet: the kernel still asks for a FLUSH.
    let file = try OpenFile(mounted.path)
    try file.write([1], at: 0)
    let gate = eventfd(0, 0)
    let child = pv_slow_start(gate)
    try #require(child > 0)
    mounted.mount.requestStop(.immediate)
    #expect(mounted.mount.waitUntilUnmounted().flushError == nil)
    // Now the child runs its program, which closes its copies, the file's among them.
    eventfd_write(gate, 1)
    #expect(pv_slow_start_end(child, 10_000) == 0, "exec waits for the end of a mount that is gone")
    #expect(throws: SystemError.self) { _ = try file.read(10, at: 0) }
    _ = consume file
    close(gate)
    mounted.place.remove()
  }
}
