// SPDX-License-Identifier: MIT

import CLinux
import Glibc
public import Synchronization

/// Where the control plane leaves work for a queue's thread, which alone may touch the queue.
///
/// The thread looks at one flag in every pass; a sleeping thread is woken through ``descriptor``.
public final class QueueMailbox<Queue: ~Copyable>: Sendable {
  /// Something to do with the queue, on its own thread.
  public typealias Work = @Sendable (inout Queue) -> Void

  @usableFromInline let flag = Atomic<Bool>(false)
  private let letters = Mutex<[Work]>([])
  /// An eventfd that is readable while work waits.
  public let descriptor: CInt

  /// Makes an empty mailbox.
  public init() {
    descriptor = eventfd(0, CInt(EFD_CLOEXEC) | CInt(EFD_NONBLOCK))
    precondition(descriptor >= 0, "no descriptor for a queue's mailbox")
  }

  deinit { Glibc.close(descriptor) }

  /// Whether work waits; one relaxed load.
  @inlinable public var hasWork: Bool { flag.load(ordering: .relaxed) }

  /// Leaves work and wakes the thread.
  public func post(_ work: @escaping Work) {
    letters.withLock { $0.append(work) }
    flag.store(true, ordering: .releasing)
    var one: UInt64 = 1
    _ = unsafe write(descriptor, &one, 8)
  }

  /// Does what waits; only the queue's thread may call it.
  public func run(on queue: inout Queue) {
    var count: UInt64 = 0
    _ = unsafe read(descriptor, &count, 8)
    flag.store(false, ordering: .sequentiallyConsistent)
    let work = letters.withLock { letters in
      defer { letters = [] }
      return letters
    }
    for letter in work { letter(&queue) }
  }
}
