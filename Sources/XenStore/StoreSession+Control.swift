// SPDX-License-Identifier: MIT

import XenWire

extension StoreSession {
  /// Carries out a command to the daemon itself (`xenstore-control`).
  func control(_ arguments: StoreArguments, _ state: inout StoreState) throws(StoreError) -> StoreReply {
    let strings = arguments.strings()
    guard let command = strings.first else { throw .invalid }
    let parameters = Array(strings.dropFirst())
    switch command {
    case "help":
      guard parameters.isEmpty else { throw .invalid }
      return .text(Self.help)
    case "check":
      guard parameters.isEmpty else { throw .invalid }
      return state.inconsistencies().isEmpty ? .okay : .text(state.inconsistencies().joined(separator: "\n"))
    case "log": return try controlLog(parameters)
    case "logfile":
      guard parameters.count == 1, let trace, trace.reopen(path: parameters[0]) else { throw .invalid }
      return .okay
    case "memreport":
      guard parameters.isEmpty else { throw .invalid }
      return .text(state.memoryReport())
    case "print":
      guard parameters.count == 1 else { throw .invalid }
      trace?.note("control: \(parameters[0])")
      return .okay
    case "quota": return try controlQuota(parameters, &state)
    case "quota-soft": return try controlSoftQuota(parameters, &state)
    default: throw .invalid
    }
  }

  private static let help = [
    ("check", ""), ("log", "[on|off|+<switch>|-<switch>]"), ("logfile", "<file>"), ("memreport", ""),
    ("print", "<string>"), ("quota", "[set <name> <val>|<domid>|max [-r]]"), ("quota-soft", "[set <name> <val>]"),
    ("help", ""),
  ].map { "\($0.0.padded(to: 15)) \($0.1)\n" }.joined()

  private func controlLog(_ parameters: [String]) throws(StoreError) -> StoreReply {
    guard let argument = parameters.first else {
      let lines = StoreTrace.Switch.allCases.map { item in
        "\(item.rawValue.padded(to: 8)): \(trace?.isOn(item) == true ? "on" : "off")\n"
      }
      return .text("Log switch settings:\n" + lines.joined())
    }
    guard parameters.count == 1 else { throw .invalid }
    switch argument {
    case "on": trace?.isEnabled = true
    case "off": trace?.isEnabled = false
    default:
      guard let sign = argument.first, sign == "+" || sign == "-",
        let item = StoreTrace.Switch(rawValue: String(argument.dropFirst()))
      else { throw .invalid }
      trace?.set(item, sign == "+")
    }
    return .okay
  }

  private func controlQuota(_ parameters: [String], _ state: inout StoreState) throws(StoreError) -> StoreReply {
    guard let verb = parameters.first else {
      let lines = StoreQuota.allCases.map { quota in
        "\(quota.rawValue.padded(to: 17)): \("\(state.quotas[quota])".aligned(to: 8)) \(quota.summary)\n"
      }
      return .text("Quota settings:\n" + lines.joined())
    }
    switch verb {
    case "set":
      guard parameters.count == 3 else { throw .invalid }
      let value = StoreArguments.number(parameters[2])
      guard value >= 1, StoreQuota(rawValue: parameters[1]) != nil else { throw .invalid }
      try state.setQuota(of: nil, parameters[1], to: value)
      return .okay
    case "max":
      guard parameters.count == 1 || parameters == ["max", "-r"] else { throw .invalid }
      if parameters.count == 2 { state.resetPeaks() }
      let lines = StoreQuota.allCases.map { quota in
        "\(quota.rawValue.padded(to: 17)): \("\(state.peak(quota))".aligned(to: 8))\n"
      }
      return .text("Max. seen accounting values:\n" + lines.joined())
    default:
      guard parameters.count == 1 else { throw .invalid }
      let domain = DomainID(rawValue: UInt16(clamping: StoreArguments.number(verb)))
      guard let record = state.domains[domain] else { throw .noSuchEntry }
      let lines = StoreQuota.allCases.map { quota in
        let used = "\(record[quota])".aligned(to: 8), peak = "\(record.peak(quota))".aligned(to: 8)
        return "\(quota.rawValue.padded(to: 17)): \(used) (max \(peak))\n"
      }
      return .text("Domain \(domain):\n" + lines.joined())
    }
  }

  private func controlSoftQuota(_ parameters: [String], _ state: inout StoreState) throws(StoreError) -> StoreReply {
    if parameters.isEmpty {
      let quota = StoreQuota.memory
      let value = "\(state.quotas.softMemory)".aligned(to: 8)
      return .text("Quota settings:\n\(quota.rawValue.padded(to: 17)): \(value) \(quota.summary)\n")
    }
    guard parameters.count == 3, parameters[0] == "set", parameters[1] == "memory" else { throw .invalid }
    let value = StoreArguments.number(parameters[2])
    guard value >= 1 else { throw .invalid }
    state.quotas.softMemory = value
    return .okay
  }
}

extension String {
  /// The text with blanks behind it up to a width.
  func padded(to width: Int) -> String { self + String(repeating: " ", count: max(0, width - utf8.count)) }
  /// The text with blanks before it up to a width.
  func aligned(to width: Int) -> String { String(repeating: " ", count: max(0, width - utf8.count)) + self }
}
