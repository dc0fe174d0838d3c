// SPDX-License-Identifier: MIT

import Foundation
import Glibc
import Testing
import XenStore
import XenWire

/// Programs that are written against Xen's own client library, compiled here.
private struct LibraryProgram {
  let path: String

  /// Whether the library's header and a compiler are installed.
  static var canBeBuilt: Bool {
    unsafe access("/usr/include/xenstore.h", R_OK) == 0 && system("command -v cc >/dev/null") == 0
  }

  init(_ name: String, in folder: String) throws {
    path = folder + "/" + name
    let source = try #require(Bundle.module.path(forResource: name, ofType: "c", inDirectory: "StockPrograms"))
    let command = "cc -Wall -Wextra -Werror -o '\(path)' '\(source)' -lxenstore -lpthread"
    try #require(unsafe system(command) == 0, "\(source) does not compile")
  }

  /// Runs the program against a socket, and answers what it complained of.
  func complaint(at socket: String, as role: String) throws -> String {
    let log = path + ".log"
    let status = unsafe system("XENSTORED_PATH='\(socket)' timeout 120 '\(path)' \(role) >'\(log)' 2>&1 </dev/null")
    let text = try String(contentsOfFile: log, encoding: .utf8)
    return status == 0 ? text : "exit status \(status >> 8): \(text)"
  }
}

@Suite("Xen's own client library", .enabled(if: LibraryProgram.canBeBuilt))
struct LibraryClientTests {
  let folder: TemporaryFolder
  let server = StoreServer()

  init() throws { folder = try TemporaryFolder() }

  @Test("every call of libxenstore does what it does with xenstored")
  func tools() throws {
    let socket = try StoreSocketServer(server: server, path: folder.path + "/socket")
    let program = try LibraryProgram("stock", in: folder.path)
    #expect(try program.complaint(at: socket.path, as: "tools") == "")
    #expect(Patience.wait { server.statistics.connections == 0 }, "its connection is gone")
    #expect(server.check() == [])
  }

  @Test("libxenstore in a guest meets permissions and quotas")
  func guest() throws {
    let domain = DomainID(rawValue: 5)
    let control = server.connect(as: .control)
    try server.introduce(domain)
    try control.makeDirectory(StorePath.home(of: domain))
    try control.setPermissions(StorePath.home(of: domain), StorePermissions(owner: domain))
    let socket = try StoreSocketServer(server: server, path: folder.path + "/guest") { _ in .guest(domain) }
    let program = try LibraryProgram("stock", in: folder.path)
    #expect(try program.complaint(at: socket.path, as: "guest") == "")
    #expect(server.check() == [])
  }
}
