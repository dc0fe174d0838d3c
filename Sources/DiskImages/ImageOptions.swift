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

  /// Which reads are copied from a mapping of the file.
  public enum MappedReads: Equatable, Sendable {
    /// None.
    case never
    /// Those of parts of the file that lie in the page cache, as far as that is known.
    case whenCached
    /// All: what does not lie there is waited for on the spot.
    case always
  }

  /// Who may write.
  public var access: Access
  /// Where writes rest before they are durable.
  public var cache: CacheMode
  /// Who does what has to wait.
  public var engine: Engine
  /// Which reads are copied from a mapping of the file instead of being asked of the kernel; none with `CacheMode.none`.
  public var mappedReads: MappedReads
  /// Bytes in a logical sector, 512 or 4096; nil is 512, or what the block device or `O_DIRECT` below demands.
  public var logicalSectorSize: Int?
  /// The number of queues that may be made.
  public var queueCount: Int

  /// Describes how an image is opened.
  public init(
    access: Access = .readWrite, cache: CacheMode = .writeback, engine: Engine = .automatic,
    mappedReads: MappedReads = .never, logicalSectorSize: Int? = nil, queueCount: Int = 1
  ) {
    precondition(queueCount > 0, "an image has at least one queue")
    self.access = access
    self.cache = cache
    self.engine = engine
    self.mappedReads = mappedReads
    self.logicalSectorSize = logicalSectorSize
    self.queueCount = queueCount
  }
}
