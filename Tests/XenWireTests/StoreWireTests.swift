// SPDX-License-Identifier: MIT

import Testing
import XenRecords
import XenWire

@Suite("The store's messages and ring page have the layouts and numbers of Xen's headers")
struct StoreWireTests {
  let golden: GoldenXen

  init() throws { golden = try GoldenXen.load() }

  @Test("every message type has its number and its name")
  func types() {
    let known = golden.group("xs_message").filter { $0.key != "INVALID" }
    #expect(known.count == 26)
    for (name, number) in known {
      #expect(StoreMessageType(rawValue: UInt32(number)).description == name)
    }
    #expect(StoreMessageType(rawValue: UInt32(golden.group("xs_message")["INVALID"] ?? 0)).description == "**UNKNOWN**")
    let ours: [String: StoreMessageType] = [
      "CONTROL": .control, "DIRECTORY": .directory, "READ": .read, "GET_PERMS": .getPermissions, "WATCH": .watch,
      "UNWATCH": .unwatch, "TRANSACTION_START": .transactionStart, "TRANSACTION_END": .transactionEnd,
      "INTRODUCE": .introduce, "RELEASE": .release, "GET_DOMAIN_PATH": .getDomainPath, "WRITE": .write,
      "MKDIR": .makeDirectory, "RM": .remove, "SET_PERMS": .setPermissions, "WATCH_EVENT": .watchEvent,
      "ERROR": .error, "IS_DOMAIN_INTRODUCED": .isDomainIntroduced, "RESUME": .resume, "SET_TARGET": .setTarget,
      "RESET_WATCHES": .resetWatches, "DIRECTORY_PART": .directoryPart, "GET_FEATURE": .getFeature,
      "SET_FEATURE": .setFeature, "GET_QUOTA": .getQuota, "SET_QUOTA": .setQuota,
    ]
    #expect(ours.mapValues { Int($0.rawValue) } == known)
  }

  @Test("the header is the C structure's, and encoded samples decode and encode to the byte")
  func header() throws {
    #expect(StoreMessageHeader.byteCount == golden.size("xsd_sockmsg"))
    #expect(StoreMessageHeader.byteCount == golden.group("xs_limits")["header_bytes"])
    #expect(StoreMessageHeader.maximumPayload == golden.group("xs_limits")["payload_max"])
    let samples: [(String, StoreMessageHeader, [UInt8])] = [
      (
        "xs_write_a_b_xyz",
        StoreMessageHeader(type: .write, requestID: 0x10, transactionID: 2, payloadByteCount: 8),
        Array("/a/b\0xyz".utf8)
      ),
      (
        "xs_error_enoent",
        StoreMessageHeader(type: .error, requestID: 0x10, transactionID: 2, payloadByteCount: 7), Array("ENOENT\0".utf8)
      ),
      (
        "xs_watch_event",
        StoreMessageHeader(type: .watchEvent, requestID: 0, transactionID: 0, payloadByteCount: 10),
        Array("/a/b\0tok1\0".utf8)
      ),
    ]
    for (name, header, payload) in samples {
      let image = try #require(golden.images[name].flatMap { bytes(hex: $0) })
      var encoded: [UInt8] = []
      header.append(to: &encoded)
      #expect(encoded + payload == image, "\(name)")
      #expect(StoreMessageHeader(image) == header, "\(name)")
    }
  }

  @Test("the ring page's parts stand where the header puts them")
  func ringPage() {
    let places: [String: Int] = [
      "req": StoreRingLayout.requests, "rsp": StoreRingLayout.replies, "req_cons": StoreRingLayout.requestConsumer,
      "req_prod": StoreRingLayout.requestProducer, "rsp_cons": StoreRingLayout.replyConsumer,
      "rsp_prod": StoreRingLayout.replyProducer, "server_features": StoreRingLayout.features,
      "connection": StoreRingLayout.connection, "error": StoreRingLayout.error,
    ]
    for (name, place) in places { #expect(place == golden.offset("xenstore_domain_interface", name), "\(name)") }
    #expect(StoreRingLayout.ringByteCount == golden.group("xs_limits")["ring_bytes_each_way"])
    // The headers after 4.17 have the port behind the structure of 4.17.
    #expect(StoreRingLayout.eventPort == golden.size("xenstore_domain_interface"))
  }

  @Test("features, connection states and ring errors have their numbers")
  func numbers() {
    let features: [String: StoreFeatures] = [
      "RECONNECTION": .reconnection, "ERROR": .errorField, "WATCHDEPTH": .watchDepth, "DOMID_ANY": .anyDomain,
    ]
    #expect(features.mapValues { Int($0.rawValue) } == golden.group("xs_server_features"))
    #expect(Int(StoreRingState.connected) == golden.group("xs_connection")["CONNECTED"])
    #expect(Int(StoreRingState.reconnect) == golden.group("xs_connection")["RECONNECT"])
    let errors: [String: StoreRingError] = [
      "NONE": .none, "COMM": .communication, "RINGIDX": .ringIndex, "PROTO": .protocolViolation,
    ]
    #expect(errors.mapValues { Int($0.rawValue) } == golden.group("xs_ring_error"))
  }
}
