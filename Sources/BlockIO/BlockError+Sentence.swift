// SPDX-License-Identifier: MIT

import GuestMemory

extension BlockError {
  /// One sentence for a person that names the thing and the way out.
  public var sentence: String {
    switch self {
    case .notFound(let path):
      "\(path) does not exist; 'pvdisk create \(path) SIZE' makes an empty image"
    case .notADisk(let path, let kind):
      "\(path) is \(kind), not a regular file or block device; name a disk image"
    case .empty(let path):
      "\(path) is too short to hold one sector; make it larger with 'truncate -s SIZE \(path)'"
    case .locked(let path, let holder):
      "\(path) is in use\(holder.map { " by \($0)" } ?? ""); unmount it there, or mount it read-only everywhere"
    case .permissionDenied(let path):
      "no permission to open \(path); check its owner and mode, or mount it with --read-only"
    case .system(let call, let path, let code):
      "\(SystemError.sentence(call: call, code: code))\(path.isEmpty ? "" : " on \(path)")"
    case .unsupported(let text): text
    case .disconnected(let text): "the disk is gone: \(text)"
    }
  }
}
