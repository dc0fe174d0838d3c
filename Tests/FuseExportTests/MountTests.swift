// SPDX-License-Identifier: MIT

import BlockIO
import CLinux
import FuseExport
import Glibc
import GuestMemory
import PVTestSupport
import Testing

@Suite("Mounting")
struct MountTests {
  static func smallDisk() throws -> MemoryDisk { try MemoryDisk(geometry: BlockGeometry(sectorCount: 2048)) }

  /// Expects the mount to be refused, with nothing left behind.
  func expectRefusal(
    at path: String, options change: (inout FuseOptions) -> Void = { _ in }, disk: MemoryDisk? = nil,
    sourceLocation: SourceLocation = #_sourceLocation, _ matches: (FuseError) -> Bool
  ) throws {
    var options = FuseOptions(mountPoint: path)
    change(&options)
    do {
      let mount = try FuseMount.mount(device: try disk ?? Self.smallDisk(), options: options)
      try mount.start()
      mount.requestStop()
      _ = mount.waitUntilUnmounted()
      Issue.record("the mount was not refused", sourceLocation: sourceLocation)
    } catch let error as FuseError {
      #expect(matches(error), "\(error)", sourceLocation: sourceLocation)
      #expect(!error.description.isEmpty && !error.description.contains("\n"), sourceLocation: sourceLocation)
    }
    #expect(!SystemView.mounts().contains(" \(path) rw,"), sourceLocation: sourceLocation)
  }

  @Test("an unsuitable mount point is refused with its own sentence")
  func mountPoints() throws {
    let place = try TemporaryPlace(.directory)
    defer { place.remove() }
    let path = place.path
    try expectRefusal(at: "\(path)/nowhere") { $0 == .mountPointMissing(path: "\(path)/nowhere") }
    try expectRefusal(at: "/dev/null") { $0 == .mountPointUnsuitable(path: "/dev/null") }
    #expect(throws: FuseError.mountPointInUse(path: "/")) {
      _ = try FuseMount.mount(device: try Self.smallDisk(), options: FuseOptions(mountPoint: "/"))
    }
    try expectRefusal(at: place.root) { $0 == .mountPointNotEmpty(path: place.root) }
    let file = "\(place.root)/disk2"
    try OpenFile.make(file)
    defer { unsafe _ = unlink(file) }
    try expectRefusal(at: "\(file)/x") {
      if case .mountPointForbidden = $0 { true } else { false }
    }
  }

  @Test("a mount point serves one disk at a time", arguments: [TemporaryPlace.Shape.directory, .file])
  func twice(_ shape: TemporaryPlace.Shape) throws {
    try withMountedDisk(shape: shape) { (mounted) throws in
      var options = FuseOptions(mountPoint: mounted.place.path)
      options.fileSystemName = "second"
      #expect(throws: FuseError.mountPointInUse(path: mounted.place.path)) {
        _ = try FuseMount.mount(device: try Self.smallDisk(), options: options)
      }
    }
  }

  @Test("an unknown option is named, a known one is taken, and commas in the source survive")
  func options() throws {
    let place = try TemporaryPlace(.directory)
    defer { place.remove() }
    try expectRefusal(at: place.path, options: { $0.mountOptions = ["nosuid", "frobnicate=3"] }) {
      if case .unknownOption(let text) = $0 { text.contains("frobnicate") } else { false }
    }
    try withMountedDisk(options: {
      $0.mountOptions = ["nosuid,noexec"]
      $0.fileSystemName = "pvdisk:/a,b\\c"
      $0.allowsOtherUsers = true
    }) { (mounted) throws in
      let line = try #require(
        SystemView.text("/proc/self/mountinfo").split(separator: "\n")
          .first { $0.contains(mounted.place.path) })
      #expect(line.contains("fuse.pvdisk pvdisk:/a,b\\134c "))
      #expect(line.contains("nosuid") && line.contains("noexec"))
      #expect(line.contains("allow_other") && line.contains("default_permissions"))
    }
  }

  @Test("a queue that cannot be made undoes the mount", arguments: [0, 2])
  func refusedQueue(_ first: Int) throws {
    let place = try TemporaryPlace(.directory)
    defer { place.remove() }
    var behaviour = MemoryDisk.Behaviour()
    behaviour.firstRefusedQueue = first
    let disk = try MemoryDisk(geometry: BlockGeometry(sectorCount: 2048), behaviour: behaviour)
    try expectRefusal(at: place.path, disk: disk) {
      if case .device(.disconnected) = $0 { true } else { false }
    }
  }

  @Test("a hundred mounts come and go without a trace")
  func storm() throws {
    let before = SystemView.openDescriptorCount()
    for round in 0..<100 {
      try withMountedDisk(byteCount: 65_536, options: { $0.depth = 4 }) { (mounted) throws in
        if round % 3 != 0 { try OpenFile(mounted.path).write([1, 2, 3], at: round) }
      }
    }
    // Other suites open and close descriptors meanwhile; a leak of one a round would show.
    #expect(SystemView.openDescriptorCount() < before + 100)
  }
}

/// Looks at the system through /proc.
enum SystemView {
  static func text(_ path: String) -> String { Shell.run("cat \(path)").output }
  static func mounts() -> String { text("/proc/self/mountinfo") }
  static func openDescriptorCount() -> Int {
    var count = 0
    guard let directory = unsafe opendir("/proc/self/fd") else { return 0 }
    while unsafe readdir(directory) != nil { count += 1 }
    unsafe _ = closedir(directory)
    return count
  }
}
