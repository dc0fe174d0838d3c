// SPDX-License-Identifier: MIT

/// The numbers of the FIFO event-channel interface (Xen event_channel.h, `EVTCHN_FIFO_*`).
///
/// ```
///   event word     31 PENDING | 30 MASKED | 29 LINKED | 28 BUSY | ... | 16-0 LINK: the next port of the queue, 0 at its end
///   control block  ready u32 @0 | reserved @4 | head[16] u32 @8                     one for each virtual CPU, 72 bytes
/// ```
public enum FIFOLayout {
  /// The event happened and was not taken.
  public static let pending: UInt32 = 1 << 31
  /// The event is held back.
  public static let masked: UInt32 = 1 << 30
  /// The event is in a queue.
  public static let linked: UInt32 = 1 << 29
  /// The hypervisor is changing the link: a guest may not unmask now.
  public static let busy: UInt32 = 1 << 28
  /// The bits that hold the next port.
  public static let linkMask: UInt32 = 0x1FFFF
  /// Event words in a page of the array.
  public static let wordsPerPage = 1024
  /// The most pages that the array may have.
  public static let arrayPageLimit = 128
  /// The ports that 17 bits of link can name.
  public static let portCount = 131_072
  /// Priorities, 0 the most urgent; each is a queue of its own.
  public static let priorityCount = 16
  /// The priority of a port that nobody gave one.
  public static let defaultPriority = 7
  /// Bytes in a control block.
  public static let controlByteCount = 72
  /// The offset of the bits that say which queues became non-empty.
  public static let readyOffset = 0
  /// The offset of the queues' first ports.
  public static let headOffset = 8
}

/// How a domain is told of events.
public enum EventInterface: Equatable, Sendable {
  /// Bits in the shared-info page; 4096 ports, no priorities.
  case twoLevel
  /// Queues through words in the guest's own pages; 131072 ports, 16 priorities.
  case fifo
}
