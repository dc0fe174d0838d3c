// SPDX-License-Identifier: MIT

import CLinux
import Glibc
public import GuestMemory
import Synchronization
public import XenWire

/// Why a Unix socket could not be served.
public enum StoreSocketError: Error, Equatable, Sendable, CustomStringConvertible {
  /// Something exists at the path already, with nobody behind it.
  case exists(String)
  /// A running daemon listens at the path.
  case served(String)
  /// The folder in which the socket is to be does not exist.
  case folderMissing(String)
  /// The folder in which the socket is to be may not be written to.
  case notWritable(String)
  /// The path does not fit a socket address: at most ``StoreSocketServer/maximumPathByteCount`` bytes do.
  case tooLong(String)
  /// A system call failed.
  case system(String, SystemError)

  /// A sentence that names the path and the way out.
  public var description: String {
    switch self {
    case .exists(let path):
      "\(path) exists already, and nobody serves it: remove it or choose another socket path"
    case .served(let path): "a running daemon serves \(path) already: stop it or choose another socket path"
    case .folderMissing(let path):
      "cannot serve the socket \(path): there is no folder \(Self.folder(of: path)); make it first"
    case .notWritable(let path):
      "cannot serve the socket \(path): the folder \(Self.folder(of: path)) is not writable for this user; choose another"
    case .tooLong(let path):
      "the socket path \(path) has \(path.utf8.count) bytes, but a Unix socket's path has at most "
        + "\(StoreSocketServer.maximumPathByteCount): choose a shorter one"
    case .system(let path, let error): "cannot serve the socket \(path): \(error)"
    }
  }

  /// What a failed `bind(2)` means.
  init(_ error: SystemError, at path: String) {
    switch error.code {
    case EADDRINUSE: self = UnixSocket.isServed(path: path) ? .served(path) : .exists(path)
    case ENOENT, ENOTDIR: self = .folderMissing(path)
    case EACCES, EPERM, EROFS: self = .notWritable(path)
    default: self = .system(path, error)
    }
  }

  private static func folder(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }
}

/// Who is at the other end of a Unix socket, as the kernel saw it when they connected.
public struct PeerCredentials: Hashable, Sendable {
  /// The process.
  public let process: Int32
  /// Its effective user.
  public let user: UInt32
  /// Its effective group.
  public let group: UInt32
}

/// What a server takes the process behind a socket for.
public enum StorePeerRole: Hashable, Sendable {
  /// The control domain's tools: everything is allowed.
  case control
  /// A guest: permissions and quotas apply.
  case guest(DomainID)
  /// Nobody who is served.
  case refused
}

/// Serves a store on a Unix stream socket, one thread for any number of clients.
///
/// The thread sleeps in one `epoll_wait`. Clients may pipeline requests; a client that does not read its replies is not
/// listened to until it does, and costs at most ``StoreSession/outputLimit`` and ``StoreSession/eventLimit`` bytes; one
/// that announces a payload above 4096 bytes is dropped, as xenstored does. Clients speak for the control domain.
public final class StoreSocketServer: Sendable {
  /// Where the socket is.
  public let path: String
  private let bell: StoreSocketBell
  private let thread: Mutex<ThreadHandle?>

  /// The longest path of a Unix socket, in bytes.
  public static let maximumPathByteCount = 107

  /// Binds a socket and starts to serve it.
  /// - Parameters:
  ///   - mode: The socket file's permission bits; whoever may write to it may connect.
  ///   - trace: Where messages are written down.
  ///   - role: What each connecting process is taken for.
  public init(
    server: StoreServer, path: String, mode: UInt32 = 0o600, trace: StoreTrace? = nil,
    role: @escaping @Sendable (PeerCredentials) -> StorePeerRole = { _ in .control }
  ) throws(StoreSocketError) {
    guard path.utf8.count <= Self.maximumPathByteCount else { throw .tooLong(path) }
    let listener: CInt
    do throws(SystemError) {
      listener = try UnixSocket.listen(path: path, mode: mode)
    } catch {
      throw StoreSocketError(error, at: path)
    }
    let bell: StoreSocketBell
    let loop: StoreSocketLoop
    do throws(SystemError) {
      bell = try StoreSocketBell()
      loop = try StoreSocketLoop(server: server, listener: listener, bell: bell, trace: trace, role: role)
    } catch {
      close(listener)
      unsafe unlink(path)
      throw .system(path, error)
    }
    self.path = path
    self.bell = bell
    guard let handle = ThreadHandle.start(loop.run) else {
      close(listener)
      unsafe unlink(path)
      throw .system(path, SystemError("pthread_create", code: EAGAIN))
    }
    thread = Mutex(handle)
  }

  deinit { stop() }

  /// Closes all clients and the socket, removes its file, and returns when the thread has ended.
  public func stop() {
    let handle = thread.withLock { thread in
      defer { thread = nil }
      return thread
    }
    guard let handle else { return }
    unsafe unlink(path)
    bell.stop()
    handle.join()
  }
}

/// A thread that somebody will wait for, or that nobody will.
struct ThreadHandle: Sendable {
  private let identifier: pthread_t

  private final class Entry {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }

  /// Starts a thread; nil when there can be no more.
  static func start(_ body: @escaping @Sendable () -> Void) -> ThreadHandle? {
    var identifier = pthread_t()
    let entry = unsafe Unmanaged.passRetained(Entry(body))
    // SAFETY: the entry was retained for the new thread, which takes it over.
    let code = unsafe pthread_create(
      &identifier, nil,
      { argument in
        guard let argument = unsafe argument else { return nil }
        unsafe Unmanaged<Entry>.fromOpaque(argument).takeRetainedValue().body()
        return nil
      }, entry.toOpaque())
    guard code == 0 else {
      unsafe entry.release()
      return nil
    }
    return ThreadHandle(identifier: identifier)
  }

  /// Waits for the thread's end.
  func join() { pthread_join(identifier, nil) }

  /// Lets the thread's stack go with it; nobody may wait for it then.
  func detach() { pthread_detach(identifier) }
}
