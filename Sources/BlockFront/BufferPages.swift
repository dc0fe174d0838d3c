// SPDX-License-Identifier: MIT

import BlockIO
import GuestMemory
import Synchronization
public import XenHypervisor

/// The pages of a queue's arena, for as long as any queue's requests may name them: its own, and those of a neighbour that was
/// let at its buffers.
///
/// They go back to the domain with the last of them, unless a backend still maps one.
public final class BufferPages<Platform: FrontendPlatform>: @unchecked Sendable {
  // SAFETY: what may change is atomic; the platform is used once, by whoever lets go last, and pages may be freed on any thread.
  let pages: GuestPages
  /// The buffers among them, which come first.
  let buffers: MemoryExtent
  private let isStuck = Atomic<Bool>(false)
  private let platform: Platform

  init(_ arena: borrowing FrontArena, of platform: Platform) {
    pages = arena.pages
    buffers = MemoryExtent(address: arena.baseAddress, byteCount: Int(arena.dataByteCount))
    self.platform = platform
  }

  deinit {
    if !isStuck.load(ordering: .acquiring) { platform.freePages(pages) }
  }

  /// Keeps the pages out of use for ever (XSA-396).
  func retire() { isStuck.store(true, ordering: .releasing) }
}

extension FrontQueue {
  /// The queue's pages, for a neighbour's ``reach(_:)``.
  public var bufferPages: BufferPages<Platform> { ownPages }

  /// Lets requests name a neighbour's buffers without a copy, and keeps these pages while the queue lives.
  ///
  /// A page must be in one request at a time, whichever queue carries it. Where the domain has no references left for so
  /// many pages, data in them goes on being copied.
  public mutating func reach(_ neighbour: BufferPages<Platform>) {
    guard neighbourPages == nil, neighbour.buffers.byteCount > 0 else { return }
    if abilities.isPersistent && !isSuspended {
      let count = neighbour.buffers.byteCount >> PageGeometry.pageShift
      guard let references = try? platform.allocateReferences(count) else { return }
      arena.attach(neighbour.buffers, firstFrame: neighbour.pages.firstFrame)
      grant(references, from: arena.pages.count)
    } else {
      arena.attach(neighbour.buffers, firstFrame: neighbour.pages.firstFrame)
    }
    neighbourPages = neighbour
  }
}
