// SPDX-License-Identifier: MIT

public import XenStore
public import XenWire

/// A domain as a toolstack makes it known in the store: its home, its `/vm` folder and the toolstack's own `/libxl` record
/// (libxl's `libxl__domain_make`, in its order and with its permissions).
///
/// What a kernel or a console daemon adds on a real host is not here, because there is neither: `cpu`, `console`, the
/// values of `control/feature-*`, and the image that was booted.
public struct DomainDefinition: Equatable, Sendable {
  /// The domain.
  public var domain: DomainID
  /// Its name.
  public var name: String
  /// Its universally unique name, by which `/vm` lists it.
  public var identifier: String
  /// Its memory in KiB.
  public var memoryKiB: Int

  /// Describes a guest.
  ///
  /// - Parameter identifier: A UUID; by default one that is made from the domain's number, so that the same machine always
  ///   looks the same.
  public init(_ domain: DomainID, name: String = "guest", memoryByteCount: Int, identifier: String? = nil) {
    self.domain = domain
    self.name = name
    self.memoryKiB = memoryByteCount >> 10
    let number = String(domain.rawValue, radix: 16)
    self.identifier =
      identifier ?? "70766469-736b-4000-8000-" + String(repeating: "0", count: 12 - number.count) + number
  }

  /// `/vm/<identifier>`.
  public var vmPath: StorePath { StorePath.root / "vm" / identifier }
  /// `/libxl/<domain>`: the toolstack's own record, which neither end may write.
  public static func recordPath(of domain: DomainID) -> StorePath { StorePath.root / "libxl" / domain }

  /// Folders that the guest may read, below its home.
  private static let readable = ["cpu", "memory", "device", "control"]
  /// Nodes that belong to the guest, below its home.
  private static let writable = [
    "control/shutdown", "control/feature-poweroff", "control/feature-reboot", "control/feature-suspend",
    "control/sysrq", "device/suspend/event-channel", "data", "drivers", "feature", "attr", "error",
  ]

  /// Writes what a fresh host says of its control domain and its CPU pool.
  public static func createControlDomain(in store: any StoreHandle) throws(StoreError) {
    let home = StorePath.home(of: .control)
    try store.transaction { (transaction) throws(StoreError) in
      try store.write(home / "domid", "0", in: transaction)
      try store.write(home / "name", "Domain-0", in: transaction)
      try store.write(StorePath.root / "local/pool/0/name", "Pool-0", in: transaction)
    }
  }

  /// Writes the folders in one transaction.
  public func create(in store: any StoreHandle) throws(StoreError) {
    let home = StorePath.home(of: domain)
    let closed = StorePermissions(owner: .control)
    let readable = StorePermissions(owner: .control, others: [], [StorePermission(.read, domain)])
    let owned = StorePermissions(owner: domain)
    try store.transaction { (transaction) throws(StoreError) in
      func folder(_ path: StorePath, _ permissions: StorePermissions) throws(StoreError) {
        try store.makeDirectory(path, in: transaction)
        try store.setPermissions(path, permissions, in: transaction)
      }
      try folder(home, readable)
      try folder(vmPath, readable)
      try folder(Self.recordPath(of: domain), closed)
      try store.write(home / "vm", vmPath.string, in: transaction)
      try store.write(home / "name", name, in: transaction)
      for name in Self.readable { try folder(home / name, readable) }
      for name in Self.writable { try folder(home / name, owned) }
      try store.write(home / "control/platform-feature-multiprocessor-suspend", "1", in: transaction)
      try store.write(home / "control/platform-feature-xs_reset_watches", "1", in: transaction)
      try store.write(home / "domid", "\(domain)", in: transaction)
      for (name, value) in [("static-max", memoryKiB), ("target", memoryKiB), ("videoram", 0)] {
        try store.write(home / "memory" / name, "\(value)", in: transaction)
      }
      try store.write(vmPath / "name", name, in: transaction)
      try store.write(vmPath / "uuid", identifier, in: transaction)
      try store.makeDirectory(Self.recordPath(of: domain) / "device", in: transaction)
      try store.write(Self.recordPath(of: domain) / "type", "pv", in: transaction)
    }
  }

  /// Writes where the guest finds the store's page and event channel.
  public func writeStoreRing(frame: UInt64, port: UInt32, in store: any StoreHandle) throws(StoreError) {
    let folder = StorePath.home(of: domain) / "store"
    try store.transaction { (transaction) throws(StoreError) in
      try store.write(folder / "port", "\(port)", in: transaction)
      try store.write(folder / "ring-ref", "\(frame)", in: transaction)
    }
  }
}
