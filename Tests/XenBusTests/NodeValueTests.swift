// SPDX-License-Identifier: MIT

import Testing
import XenBus
import XenRecords
import XenStore
import XenWire

@Suite("What nodes' texts mean")
struct NodeValueTests {
  /// What Linux's `xenbus_scanf` with `%u` makes of a text; nil is a failure, for which the key's default counts.
  ///
  /// A number that does not fit is a failure here, where Linux's kernel would cut it to 32 bits without a word.
  static let unsigned: [(String, UInt32?)] = [
    ("0", 0), ("1", 1), ("51712", 51712), ("4294967295", .max), ("007", 7), (" 8", 8), ("\t\n9", 9), ("12abc", 12),
    ("3 4", 3), ("", nil), (" ", nil), ("-1", nil), ("+1", nil), ("abc", nil), ("x1", nil), ("0x10", 0),
    ("4294967296", nil), ("99999999999999999999999999", nil), ("\u{661}", nil),
  ]

  @Test("a number is read as Linux reads %u", arguments: unsigned)
  func numbers(text: String, value: UInt32?) {
    #expect(UInt32(nodeText: text) == value)
    #expect(Bool(nodeText: text) == (value.map { $0 != 0 } ?? (UInt64(nodeText: text).map { $0 != 0 })))
  }

  @Test("a 64-bit number has room for every disk")
  func wideNumbers() {
    #expect(UInt64(nodeText: "18446744073709551615") == .max)
    #expect(UInt64(nodeText: "18446744073709551616") == nil)
    #expect(UInt64.max.nodeText == "18446744073709551615")
  }

  @Test("a state is a number from 0 to 8, anything else is no state")
  func states() {
    for state in XenbusState.allCases { #expect(XenbusState(nodeText: "\(state.rawValue)") == state) }
    for text in ["", "9", "-1", "connected", "4294967300"] { #expect(XenbusState(nodeText: text) == nil, "\(text)") }
    #expect(XenbusState.connected.nodeText == "4")
  }

  @Test("what an absent or senseless node counts as is what Linux assumes")
  func defaults() throws {
    let store = StoreServer()
    let connection = store.connect(as: .control)
    let path = try #require(StorePath("/somewhere"))
    let folder = DeviceFolder(store: connection, path: path)
    for text in [nil, "", "yes", "-1"] {
      if let text {
        for name in Self.defaulted { try connection.write(path / name, text) }
      }
      #expect(folder.value(FrontendKey.trusted) == true)
      #expect(folder.value(FrontendKey.featurePersistent) == false)
      #expect(folder.value(FrontendKey.queueCount) == 1)
      #expect(folder.value(BackendKey.discardEnable) == true)
      #expect(folder.value(BackendKey.online) == false)
      #expect(folder.value(BackendKey.featureBarrier) == false)
      #expect(folder.value(BackendKey.featureFlushCache) == false)
      #expect(folder.value(BackendKey.featureDiscard) == false)
      #expect(folder.value(BackendKey.discardSecure) == false)
      #expect(folder.value(BackendKey.maxIndirectSegments) == 0)
      #expect(folder.value(BackendKey.maxRingPageOrder) == 0)
      #expect(folder.value(BackendKey.maxQueues) == 1)
      #expect(folder.state == .unknown)
      #expect(folder.read(BackendKey.sectors) == nil)
      #expect(folder.read(FrontendKey.ringPageOrder) == nil)
    }
    // What Linux's x86 backend takes a silent guest for.
    #expect(folder.value(FrontendKey.blockProtocol) == "x86_32-abi")
    #expect(folder.value(BackendKey.mode) == "r")
  }

  static let defaulted = [
    "trusted", "feature-persistent", "multi-queue-num-queues", "discard-enable", "online", "feature-barrier",
    "feature-flush-cache", "feature-discard", "discard-secure", "feature-max-indirect-segments", "max-ring-page-order",
    "multi-queue-max-queues", "state", "sectors", "ring-page-order",
  ]

  @Test("a key keeps its meaning in a queue's folder")
  func queueKeys() {
    #expect(FrontendKey.ringReference.inQueue(3).name == "queue-3/ring-ref")
    #expect(FrontendKey.ringReference(15).inQueue(0).name == "queue-0/ring-ref15")
    #expect(FrontendKey.queueCount.inQueue(1).absent == 1)
  }

  @Test("a state is switched once, and never in a folder that is gone")
  func switching() throws {
    let store = StoreServer()
    let connection = store.connect(as: .control)
    let path = try #require(StorePath("/device"))
    let folder = DeviceFolder(store: connection, path: path)
    try folder.switchState(to: .closing)
    #expect(try !connection.exists(path), "the toolstack removed it; nobody brings it back")
    try connection.write(path / "state", "4")
    let watcher = store.connect(as: .control)
    try watcher.watch(path / "state", token: "t")
    while watcher.nextEvent() != nil {}
    try folder.switchState(to: .connected)
    #expect(watcher.nextEvent() == nil, "the same state is not written again")
    try folder.switchState(to: .connected, rewriting: true)
    #expect(watcher.nextEvent() != nil, "unless somebody is to look again")
    try folder.switchState(to: .closed)
    #expect(folder.state == .closed)
  }

  @Test("an error is reported where Linux reports it")
  func errors() throws {
    let store = StoreServer()
    try store.introduce(DomainID(rawValue: 3))
    let connection = store.connect(as: .control)
    let path = try #require(StorePath("/local/domain/0/backend/vbd/3/51712"))
    DeviceFolder(store: connection, path: path).reportError(code: 22, "mapping ring-ref 8")
    #expect(try connection.read("/local/domain/0/error/backend/vbd/3/51712/error") == "22 mapping ring-ref 8")
  }
}

@Suite("Virtual devices")
struct VirtualDeviceTests {
  let golden: GoldenVectors

  init() throws { golden = try GoldenVectors.load() }

  @Test("every name of the interface has its number")
  func names() {
    #expect(golden.devices.count == 45)
    for (name, number) in golden.devices {
      #expect(VirtualDevice(name)?.number == number, "\(name)")
      #expect(VirtualDevice(name)?.handle == UInt16(truncatingIfNeeded: number))
      #expect(VirtualDevice(name)?.name == name)
    }
  }

  @Test("what names no device is refused")
  func refused() {
    for text in golden.notDevices + ["", "xvda 1", "hda01", "sda-1", "XVDA", "xvdaaaaaa", "4294967296", "0xg", "d1p"] {
      #expect(VirtualDevice(text) == nil, "\(text)")
    }
  }

  @Test("a number stands for itself, in decimal, hexadecimal and octal, and gets its name")
  func numbers() {
    for (name, number) in golden.devices where !name.hasPrefix("d") {
      for text in ["\(number)", "0x" + String(number, radix: 16), "0" + String(number, radix: 8)] {
        #expect(VirtualDevice(text)?.number == number, "\(text)")
        #expect(VirtualDevice(text)?.name == name, "\(text)")
      }
    }
    #expect(VirtualDevice("xvda") == VirtualDevice("d0p0") && VirtualDevice("xvda") == VirtualDevice("51712"))
    #expect(VirtualDevice("xvda") != VirtualDevice("hda"), "two numbers, though Linux calls both xvda")
    #expect(Set(["xvdaa", "d26p0", "268442112"].compactMap { VirtualDevice($0) }).count == 1)
    #expect(VirtualDevice(disk: 26)?.name == "xvdaa" && VirtualDevice(disk: 1 << 20) == nil)
    #expect(VirtualDevice("12345")?.name == "12345", "a number without a name is its own")
  }
}
