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

  /// Who may write.
  public var access: Access
  /// Where writes rest before they are durable.
  public var cache: CacheMode
  /// Bytes in a logical sector, 512 or 4096; nil is 512, or what the block device or `O_DIRECT` below demands.
  public var logicalSectorSize: Int?
  /// The number of queues that may be made.
  public var queueCount: Int

  /// Describes how an image is opened.
  public init(
    access: Access = .readWrite, cache: CacheMode = .writeback, logicalSectorSize: Int? = nil, queueCount: Int = 1
  ) {
    precondition(queueCount > 0, "an image has at least one queue")
    self.access = access
    self.cache = cache
    self.logicalSectorSize = logicalSectorSize
    self.queueCount = queueCount
  }
}
