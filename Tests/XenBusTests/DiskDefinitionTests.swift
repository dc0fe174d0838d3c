// SPDX-License-Identifier: MIT

import Testing
import XenBus
import XenRecords
import XenStore
import XenWire

@Suite("The folders of a disk, against those of a real toolstack")
struct DiskDefinitionTests {
  static func definition(_ guest: Int, device: String = "xvda") throws -> DiskDefinition {
    DiskDefinition(
      frontend: DomainID(rawValue: UInt16(guest)), device: try #require(VirtualDevice(device)), params: "/dev/loop0",
      type: "phy")
  }

  /// What libxl writes and this project does not.
  static let differences = [
    AcceptedDifference(
      "script", ours: nil, because: "no hotplug script runs: the disk is open before the folders are made")
  ]

  @Test("nodes, values and their order are libxl's", arguments: ["default-1vcpu", "default-2vcpu"])
  func nodes(scenario: String) throws {
    let capture = try CapturedConversation(scenario)
    let store = StoreServer()
    let guest = DomainID(rawValue: UInt16(capture.guest))
    try store.introduce(guest)
    let recorder = try ConversationRecorder(store)
    try Self.definition(capture.guest).create(in: store.connect(as: .control))
    let toolstack = capture.changes.prefix { !$0.path.hasSuffix("/feature-max-indirect-segments") }
    #expect(toolstack.count == 21)
    #expect(recorder.take() == Array(toolstack).adapted(Self.differences))
    recorder.stop()
  }

  @Test("permissions of both folders and of every node in them are libxl's")
  func permissions() throws {
    let capture = try CapturedConversation("default-1vcpu")
    let store = StoreServer()
    try store.introduce(DomainID(rawValue: UInt16(capture.guest)))
    let connection = store.connect(as: .control)
    try Self.definition(capture.guest).create(in: connection)
    var judged = 0
    for node in capture.nodes {
      guard try connection.exists(node.path) else { continue }
      let permissions = "\(try connection.permissions(node.path))".replacing(" ", with: ",")
      #expect(permissions == node.permissions, "\(node.path)")
      judged += 1
    }
    #expect(judged == 22, "two folders and twenty nodes")
  }

  @Test("what stood in the folders before goes, and both folders appear at once")
  func replacing() throws {
    let store = StoreServer()
    try store.introduce(DomainID(rawValue: 5))
    let connection = store.connect(as: .control)
    let definition = try Self.definition(5)
    try connection.write(definition.frontendPath / "ring-ref", "666")
    try connection.write(definition.backendPath / "stale/deep", "1")
    try definition.create(in: connection)
    #expect(try !connection.exists(definition.frontendPath / "ring-ref"))
    #expect(try !connection.exists(definition.backendPath / "stale"))
    #expect(try connection.directory(definition.frontendPath).count == 7)
    #expect(store.statistics.transactions == 0)
  }

  @Test("mode, removable, trusted and discard follow the definition")
  func variants() throws {
    let store = StoreServer()
    try store.introduce(DomainID(rawValue: 5))
    let connection = store.connect(as: .control)
    var definition = try Self.definition(5, device: "xvdd")
    definition.isReadOnly = true
    definition.isRemovable = true
    definition.isBackendTrusted = false
    definition.isDiscardEnabled = false
    definition.blockProtocol = .x86_32
    try definition.create(in: connection)
    let back = DeviceFolder(store: connection, path: definition.backendPath)
    let front = DeviceFolder(store: connection, path: definition.frontendPath)
    #expect(definition.backendPath.string == "/local/domain/0/backend/vbd/5/51760")
    #expect(back.value(BackendKey.mode) == "r" && back.value(BackendKey.removable) == true)
    #expect(back.value(BackendKey.deviceType) == "cdrom" && front.value(FrontendKey.deviceType) == "cdrom")
    #expect(back.value(BackendKey.discardEnable) == false && back.read(BackendKey.dev) == "xvdd")
    #expect(front.value(FrontendKey.trusted) == false && front.value(FrontendKey.blockProtocol) == "x86_32-abi")
  }

  @Test("removal is libxl's: each folder, then what is empty above it")
  func removal() throws {
    let store = StoreServer()
    try store.introduce(DomainID(rawValue: 16))
    let connection = store.connect(as: .control)
    let definition = try Self.definition(16)
    let other = try Self.definition(16, device: "xvdb")
    try definition.create(in: connection)
    try other.create(in: connection)
    let recorder = try ConversationRecorder(store)
    try definition.remove(from: connection)
    #expect(recorder.take().map(\.path) == [definition.frontendPath.string, definition.backendPath.string])
    try other.remove(from: connection)
    #expect(
      recorder.take().map(\.path) == [
        "/local/domain/16/device/vbd/51728", "/local/domain/16/device/vbd", "/local/domain/0/backend/vbd/16/51728",
        "/local/domain/0/backend/vbd/16", "/local/domain/0/backend/vbd",
      ])
    recorder.stop()
  }
}
