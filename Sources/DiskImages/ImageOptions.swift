// SPDX-License-Identifier: MIT

/// How an image is opened.
public struct ImageOptions: Equatable, Sendable {
  /// Who may write.
  public enum Access: Equatable, Sendable {
    /// Nobody; other readers may hold the image at the same time.
    case readOnly
    /// Its one holder; nobody else may hold the image.
    case readWrite
  }

  /// Where writes rest before they are durable.
  public enum CacheMode: Equatable, Sendable {
    /// In the page cache, until a flush.
    case writeback
    /// In the device's cache only, until a flush: `O_DIRECT`.
    case none
    /// In the page cache, until the kernel feels like it: a flush does nothing. For images that can be thrown away.
    case unsafe
  }

  /// Who does what has to wait: misses of the page cache, flushes, discards.
  public enum Engine: Equatable, Sendable {
    /// The kernel, through io_uring; `blocking` where a sandbox or an administrator forbids that.
    case automatic
    /// The queue's own thread, one request after the other: slow, and the same each time.
    case blocking
  }

  /// Who may write.
  public var access: Access
  /// Where writes rest before they are durable.
  public var cache: CacheMode
  /// Who does what has to wait.
  public var engine: Engine
  /// Whether reads are copied from a mapping of the file instead of being asked of the kernel; not with `CacheMode.none`.
  ///
  /// Quicker for an image that lies in the page cache. What does not lie there is waited for on the spot.
  public var mapsReads: Bool
  /// Bytes in a logical sector, 512 or 4096; nil is 512, or what the block device or `O_DIRECT` below demands.
  public var logicalSectorSize: Int?
  /// The number of queues that may be made.
  public var queueCount: Int

  /// Describes how an image is opened.
  public init(
    access: Access = .readWrite, cache: CacheMode = .writeback, engine: Engine = .automatic,
    mapsReads: Bool = false, logicalSectorSize: Int? = nil, queueCount: Int = 1
  ) {
    precondition(queueCount > 0, "an image has at least one queue")
    self.access = access
    self.cache = cache
    self.engine = engine
    self.mapsReads = mapsReads
    self.logicalSectorSize = logicalSectorSize
    self.queueCount = queueCount
  }
}
