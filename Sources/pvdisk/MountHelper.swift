// SPDX-License-Identifier: MIT

/// What mount(8) and fstab(5) call for type `fuse.pvdisk`: this program under the name `mount.fuse.pvdisk`.
///
/// ```
/// /images/data.img  /mnt/data  fuse.pvdisk  ro,queues=4,placement=threads,nofail,allow_other  0 0
/// ```
///
/// mount(8) passes every option of the line, its own too (`nofail`, `noauto`, `x-systemd...`), and a helper has to bear
/// those that it does not know.
enum MountHelper {
  /// Whether the program was called under the helper's name.
  static func isCalled(as program: String) -> Bool {
    program.split(separator: "/").last?.hasPrefix("mount.") == true
  }

  /// The arguments of `pvdisk mount` that mean the same.
  /// - Parameter arguments: `image mountpoint [-sfnv] [-o options] [-t type]`, as mount(8) passes them.
  static func arguments(_ arguments: [String]) -> [String] {
    var result = ["mount", "--daemonize"]
    var rest = arguments[...]
    while let word = rest.popFirst() {
      switch word {
      case "-o": result += (rest.popFirst() ?? "").split(separator: ",").flatMap { translate(String($0)) }
      case "-t", "-N": _ = rest.popFirst()
      case let flags where flags.hasPrefix("-") && flags.count > 1: break
      default: result.append(word)
      }
    }
    return result
  }

  /// Options of `pvdisk mount` that take a value, and those that take none.
  private static let valued: Set<String> = [
    "queues", "ring-pages", "indirect-segments", "protocol", "placement", "sector-size", "vdev", "cache", "mapping",
    "fuse-transport", "xenstore-socket", "pid-file", "max-persistent-grants", "align", "dif", "dif-type", "dif-guard",
    "notify",
  ]
  private static let bare: Set<String> = [
    "persistent", "no-persistent", "split", "whole-page", "map-image", "no-map-image",
  ]
  /// What libfuse and the kernel understand of a FUSE mount.
  private static let fuse: Set<String> = [
    "allow_other", "allow_root", "default_permissions", "fsname", "uid", "gid", "umask",
  ]

  private static func translate(_ option: String) -> [String] {
    let name = String(option.prefix { $0 != "=" })
    if name == "ro" { return ["--read-only"] }
    if bare.contains(option) { return ["--\(option)"] }
    if valued.contains(name), name != option { return ["--\(name)", String(option.dropFirst(name.count + 1))] }
    return fuse.contains(name) ? ["-o", option] : []
  }
}
