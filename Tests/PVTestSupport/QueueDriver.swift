// SPDX-License-Identifier: MIT

public import BlockIO
import Glibc

/// Runs requests on a queue as a reactor would: advance, take completions, arm, sleep on the wait descriptor.
public struct QueueDriver<Queue: BlockQueue & ~Copyable>: ~Copyable {
  /// The queue.
  public var queue: Queue

  /// Drives a queue.
  public init(_ queue: consuming Queue) { self.queue = queue }

  /// Runs one request alone.
  /// - Returns: 0, or its positive `errno`; -1 when no completion came within a minute.
  public mutating func run(_ request: IORequest) -> CInt {
    guard case .accepted = queue.submit(request) else { return -1 }
    guard let completion = nextCompletion(), completion.tag == request.tag else { return -1 }
    return completion.errorCode
  }

  /// Waits for a completion; nil when none came within a minute.
  public mutating func nextCompletion() -> IOCompletion? {
    let deadline = time(nil) + 60
    while time(nil) < deadline {
      queue.advance()
      if let completion = queue.nextCompletion() { return completion }
      if queue.inFlight == 0 { return nil }
      guard case .maySleep = queue.prepareToWait() else { continue }
      var waiting = pollfd(fd: queue.waitDescriptor, events: Int16(POLLIN), revents: 0)
      _ = unsafe poll(&waiting, 1, 10_000)
    }
    return nil
  }
}
