// SPDX-License-Identifier: MIT

public import XenStore
public import XenWire

/// A disk as a toolstack makes it: the two folders that bring a frontend and a backend together (libxl's
/// `libxl__device_disk_add`).
public struct DiskDefinition: Equatable, Sendable {
  /// The frontend's domain.
  public var frontend: DomainID
  /// The backend's domain.
  public var backend = DomainID.control
  /// The device.
  public var device: VirtualDevice
  /// What to serve.
  public var params: String
  /// How the backend gets at it: `phy` for a block device, `file` for an image.
  public var type: String
  /// Whether writing is refused.
  public var isReadOnly = false
  /// Whether the medium can be removed: a CD-ROM.
  public var isRemovable = false
  /// Whether the frontend may trust the backend with its pages.
  public var isBackendTrusted = true
  /// Whether discard may be offered; by default on writable disks alone, as libxl has it.
  public var isDiscardEnabled: Bool?
  /// The ABI that the toolstack expects of the frontend.
  public var blockProtocol = BlockProtocol.x86_64
  /// The backend's kind: the folder below `backend/`.
  public var backendKind = "vbd"

  /// Describes a disk.
  public init(frontend: DomainID, device: VirtualDevice, params: String, type: String) {
    self.frontend = frontend
    self.device = device
    self.params = params
    self.type = type
  }

  /// `device/vbd/<number>` in the frontend's home.
  public var frontendPath: StorePath { StorePath.home(of: frontend) / "device/vbd" / device.number }
  /// `backend/<kind>/<domain>/<number>` in the backend's home.
  public var backendPath: StorePath {
    StorePath.home(of: backend) / "backend" / backendKind / frontend / device.number
  }
  /// `/libxl/<domain>/device/vbd/<number>`: the toolstack's own record, which neither end may write (XSA-175, XSA-178).
  public var recordPath: StorePath { DomainDefinition.recordPath(of: frontend) / "device/vbd" / device.number }

  /// The frontend's nodes in the order that libxl writes them.
  var frontendNodes: [(String, String)] {
    [
      ("backend", backendPath.string), ("backend-id", "\(backend)"), ("state", "1"),
      ("virtual-device", "\(device.number)"), ("device-type", isRemovable ? "cdrom" : "disk"),
      ("trusted", isBackendTrusted ? "1" : "0"), ("protocol", blockProtocol.rawValue),
    ]
  }

  /// The backend's nodes in the order that libxl writes them.
  var backendNodes: [(String, String)] {
    [
      ("frontend", frontendPath.string), ("params", params), ("frontend-id", "\(frontend)"), ("online", "1"),
      ("removable", isRemovable ? "1" : "0"), ("bootable", "1"), ("state", "1"), ("dev", device.name),
      ("type", type), ("mode", isReadOnly ? "r" : "w"), ("device-type", isRemovable ? "cdrom" : "disk"),
      ("discard-enable", isDiscardEnabled ?? !isReadOnly ? "1" : "0"), ("specification", "xen"),
    ]
  }

  /// Writes both folders in one transaction, with the permissions that each end needs; what stood there before goes.
  public func create(in store: any StoreHandle) throws(StoreError) {
    try store.transaction { (transaction) throws(StoreError) in
      try write(frontendNodes, to: frontendPath, owner: frontend, reader: backend, store, transaction)
      try write(backendNodes, to: backendPath, owner: backend, reader: frontend, store, transaction)
      try writeRecord(store, transaction)
    }
  }

  private func write(
    _ nodes: [(String, String)], to folder: StorePath, owner: DomainID, reader: DomainID, _ store: any StoreHandle,
    _ transaction: TransactionID
  ) throws(StoreError) {
    if try store.exists(folder, in: transaction) { try store.remove(folder, in: transaction) }
    let permissions = StorePermissions(owner: owner, others: [], [StorePermission(.read, reader)])
    try store.makeDirectory(folder, in: transaction)
    try store.setPermissions(folder, permissions, in: transaction)
    for (name, value) in nodes { try store.write(folder / name, value, in: transaction) }
  }

  private func writeRecord(_ store: any StoreHandle, _ transaction: TransactionID) throws(StoreError) {
    if try store.exists(recordPath, in: transaction) { try store.remove(recordPath, in: transaction) }
    try store.makeDirectory(recordPath, in: transaction)
    let ends = [("frontend", frontendPath.string), ("backend", backendPath.string)]
    for (name, value) in ends + backendNodes.dropFirst() {
      try store.write(recordPath / name, value, in: transaction)
    }
  }

  /// Asks the ends to let go of the disk: offline, and the backend's state to closing, as `xl block-detach` does.
  public func startDetach(in store: any StoreHandle) throws(StoreError) {
    let folder = DeviceFolder(store: store, path: backendPath)
    try store.transaction { (transaction) throws(StoreError) in
      try folder.write(false, to: BackendKey.online, in: transaction)
      try folder.write(.closing, to: BackendKey.state, in: transaction)
    }
  }

  /// Removes both folders and the record, and the folders above them that are empty now.
  public func remove(from store: any StoreHandle) throws(StoreError) {
    try store.transaction { (transaction) throws(StoreError) in
      for folder in [frontendPath, backendPath, recordPath] where try store.exists(folder, in: transaction) {
        try store.remove(folder, in: transaction)
      }
      let parents = [
        frontendPath.parent, backendPath.parent, backendPath.parent?.parent, recordPath.parent,
        recordPath.parent?.parent,
      ]
      for parent in parents {
        guard let parent, try store.exists(parent, in: transaction) else { continue }
        if try store.directory(parent, in: transaction).isEmpty { try store.remove(parent, in: transaction) }
      }
    }
  }
}
