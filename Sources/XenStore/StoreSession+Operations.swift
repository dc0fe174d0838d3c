// SPDX-License-Identifier: MIT

import XenWire

extension StoreSession {
  /// Carries out one request.
  ///
  /// The order of the checks is xenstored's: unknown type, privilege, transaction, then the request's own arguments.
  func perform(
    _ header: StoreMessageHeader, _ arguments: StoreArguments, _ state: inout StoreState
  ) throws(StoreError) -> StoreReply {
    guard Self.isKnown(header.type) else { throw .notImplemented }
    guard isPrivileged || !Self.isPrivileged(header.type) else { throw .access }
    let number = header.type == .watch || header.type == .unwatch ? 0 : header.transactionID
    let caller = try caller(in: number, &state)
    switch header.type {
    case .control: return try control(arguments, &state)
    case .introduce, .release, .resume, .setTarget, .isDomainIntroduced, .getDomainPath:
      return try performDomain(header.type, arguments, &state)
    case .getFeature, .setFeature, .getQuota, .setQuota:
      return try performSettings(header.type, arguments, caller, &state)
    case .watch, .unwatch, .resetWatches:
      return try performWatch(header.type, arguments, caller, &state)
    case .transactionStart: return .text("\(try state.startTransaction(caller))")
    case .transactionEnd:
      guard let verdict = arguments.only, verdict == "T" || verdict == "F" else { throw .invalid }
      try state.endTransaction(caller, commit: verdict == "T")
      return .okay
    default: return try performNode(header.type, arguments, caller, &state)
    }
  }

  private static func isKnown(_ type: StoreMessageType) -> Bool {
    type.rawValue <= StoreMessageType.setQuota.rawValue && type != .watchEvent && type != .error && type != .restrict
  }

  private static func isPrivileged(_ type: StoreMessageType) -> Bool {
    switch type {
    case .control, .introduce, .release, .isDomainIntroduced, .resume, .setTarget, .setFeature, .getQuota, .setQuota:
      true
    default: false
    }
  }

  private func performNode(
    _ type: StoreMessageType, _ arguments: StoreArguments, _ caller: StoreCaller, _ state: inout StoreState
  ) throws(StoreError) -> StoreReply {
    switch type {
    case .write:
      guard let (name, value) = arguments.headAndRest else { throw .invalid }
      try state.write(try state.resolve(name, caller), Array(value), caller)
      return .okay
    case .setPermissions:
      try setPermissions(arguments, caller, &state)
      return .okay
    case .directoryPart: return try directoryPart(arguments, caller, &state)
    default: break
    }
    guard let name = arguments.only else { throw .invalid }
    let path = try state.resolve(name, caller, allowsSpecial: type == .getPermissions)
    switch type {
    case .read: return .bytes(try state.read(path, caller).value)
    case .directory:
      let node = try state.read(path, caller)
      let fits = node.children.byteCount <= StoreMessageHeader.maximumPayload
      guard fits || state.faults.has(.longReplySent) else { throw .tooBig }
      return .bytes(state.childList(of: node, at: path))
    case .getPermissions:
      let entries = try state.read(path, caller).permissions.entries
      return .bytes(entries.flatMap { Array($0.description.utf8) + [0] })
    case .makeDirectory: try state.makeDirectory(path, caller)
    case .remove: try state.remove(path, caller)
    default: throw .notImplemented
    }
    return .okay
  }

  private func setPermissions(
    _ arguments: StoreArguments, _ caller: StoreCaller, _ state: inout StoreState
  ) throws(StoreError) {
    let strings = arguments.strings()
    guard strings.count >= 2 else { throw .invalid }
    if state.isExceeded(.nodePermissions, by: strings.count - 1, caller) { throw .noSpace }
    guard let permissions = StorePermissions(strings.dropFirst()) else { throw .invalid }
    try state.setPermissions(
      try state.resolve(strings[0], caller, allowsSpecial: true), permissions, caller)
  }

  /// Answers the node's generation count and the names from a byte offset on, as many as fit; an empty name ends the
  /// last part.
  private func directoryPart(
    _ arguments: StoreArguments, _ caller: StoreCaller, _ state: inout StoreState
  ) throws(StoreError) -> StoreReply {
    let strings = arguments.strings(3)
    guard strings.count == 2 else { throw .invalid }
    let path = try state.resolve(strings[0], caller)
    let node = try state.read(path, caller)
    let offset = StoreArguments.number(strings[1])
    var reply = Array("\(node.generation)".utf8) + [0]
    guard offset >= 0, offset < node.children.byteCount else { return .bytes(reply + [0]) }
    let list = state.childList(of: node, at: path)
    let room = StoreMessageHeader.maximumPayload - reply.count - 1
    var end = offset
    while end < list.count, let stop = list[end...].firstIndex(of: 0), stop - offset < room { end = stop + 1 }
    reply.append(contentsOf: list[offset..<end])
    if end == list.count { reply.append(0) }
    return .bytes(reply)
  }

  private func performWatch(
    _ type: StoreMessageType, _ arguments: StoreArguments, _ caller: StoreCaller, _ state: inout StoreState
  ) throws(StoreError) -> StoreReply {
    if type == .resetWatches {
      precondition(caller.transaction == nil || !state.faults.has(.resetInsideTraps))
      state.removeWatchesAndTransactions(of: id)
      return .okay
    }
    let strings = arguments.strings(4)
    if type == .unwatch {
      guard strings.count == 2 else { throw .invalid }
      try state.unwatch(strings[0], token: strings[1], caller)
      return .okay
    }
    var depth: Int?
    if strings.count == 3, state.domains[domain]?.features.contains(.watchDepth) == true {
      depth = StoreArguments.number(strings[2])
    } else {
      guard strings.count == 2 else { throw .invalid }
    }
    try state.watch(strings[0], token: strings[1], depth: depth, caller)
    return .okay
  }

  private func performDomain(
    _ type: StoreMessageType, _ arguments: StoreArguments, _ state: inout StoreState
  ) throws(StoreError) -> StoreReply {
    switch type {
    case .introduce:
      let strings = arguments.strings(3)
      guard strings.count == 3 else { throw .invalid }
      let domain = try StoreArguments.domain(strings[0])
      guard StoreArguments.number(strings[2]) > 0 else { throw .invalid }
      try state.introduce(domain)
    case .setTarget:
      let strings = arguments.strings(2)
      guard strings.count == 2 else { throw .invalid }
      try state.setTarget(of: StoreArguments.domain(strings[0]), to: StoreArguments.domain(strings[1]))
    case .release: try state.release(try StoreArguments.domain(arguments.only))
    case .resume: try state.resume(try StoreArguments.domain(arguments.only))
    case .getDomainPath: return .text(StorePath.home(of: try StoreArguments.domain(arguments.only)).string)
    case .isDomainIntroduced:
      let domain = try StoreArguments.domain(arguments.only)
      let isThere = domain == .ownSelf || state.domains[domain]?.isIntroduced == true
      return .text(isThere ? "T" : "F")
    default: throw .notImplemented
    }
    return .okay
  }

  private func performSettings(
    _ type: StoreMessageType, _ arguments: StoreArguments, _ caller: StoreCaller, _ state: inout StoreState
  ) throws(StoreError) -> StoreReply {
    let strings = arguments.strings(4)
    switch type {
    case .getFeature:
      if strings.isEmpty { return .text("\((state.domains[domain]?.features ?? .all).rawValue)") }
      guard caller.isPrivileged else { throw .access }
      guard strings.count == 1 else { throw .invalid }
      return .text("\(try state.features(of: StoreArguments.domain(strings[0])).rawValue)")
    case .setFeature:
      guard strings.count == 2 else { throw .invalid }
      let features = UInt32(truncatingIfNeeded: StoreArguments.number(strings[1]))
      try state.setFeatures(of: StoreArguments.domain(strings[0]), to: StoreFeatures(rawValue: features))
    case .getQuota:
      guard strings.count <= 2 else { throw .invalid }
      guard let name = strings.last else { return .text(StoreQuotas.names.joined(separator: " ")) }
      let quotas = strings.count == 1 ? state.quotas : try state.quotas(of: StoreArguments.domain(strings[0]))
      guard let value = quotas[named: name] else { throw .invalid }
      return .text("\(value)")
    case .setQuota:
      guard strings.count == 2 || strings.count == 3 else { throw .invalid }
      let domain = strings.count == 3 ? try StoreArguments.domain(strings[0]) : nil
      try state.setQuota(of: domain, strings[strings.count - 2], to: StoreArguments.number(strings[strings.count - 1]))
    default: throw .notImplemented
    }
    return .okay
  }
}
