// SPDX-License-Identifier: MIT

import BlockBack
import BlockFront
import BlockIO
import GuestMemory
import XenHypervisor
import XenWire

/// What a queue gets at the beginning of a connection: the frontend's way to its ring, and the backend's end, which is
/// here or on a thread of its own.
final class QueueParts<Image: BlockQueue & ~Copyable>: @unchecked Sendable {
  // SAFETY: made and used up on one thread, the queue's.
  let connection: FrontConnection<EmulatedPlatform>
  var back: BackQueue<EmulatedPlatform, Image>?
  let imageDescriptor: CInt
  let stopBack: (@Sendable () -> Void)?

  init(
    connection: FrontConnection<EmulatedPlatform>, back: consuming BackQueue<EmulatedPlatform, Image>?,
    imageDescriptor: CInt, stopBack: (@Sendable () -> Void)?
  ) {
    self.connection = connection
    self.back = back
    self.imageDescriptor = imageDescriptor
    self.stopBack = stopBack
  }
}

/// What letters of the control plane do with a queue, on the queue's own thread.
extension StackQueue where Image: ~Copyable {
  /// Lets go of the connection: first the backend's end, then the frontend's grants.
  /// - Parameter failing: ends the I/O in hand with `EIO`; otherwise it waits for ``reconnect(_:references:detour:)``.
  mutating func disconnect(failing: Bool) {
    stopBack?()
    stopBack = nil
    visitors?.door.shut()
    if let gone = back.take() { _ = consume gone }
    front.suspend()
    if failing { front.abandon() }
    leaveDetour()
  }

  /// Begins another connection, and issues the I/O in hand to it.
  mutating func reconnect(
    _ parts: QueueParts<Image>, references: [GrantReference], detour: Detour?
  ) {
    front.reconnect(parts.connection, references: references)
    back = parts.back.take()
    stopBack = parts.stopBack
    isBackAwake = true
    wakeSet.add(parts.imageDescriptor)
    if let detour {
      visitors = Visitors(door: detour, previous: visitors)
    } else if let visitors, visitors.isQuiet {
      self.visitors = nil
    }
  }

  /// Sends its I/O through another queue's ring from now on.
  mutating func travel(through detour: Detour) {
    self.detour = detour
    front.awaitCarrier()
  }

  /// Lets its requests name a neighbour's buffers.
  mutating func reach(_ neighbour: BufferPages<EmulatedPlatform>) { front.reach(neighbour) }

  /// Pages of the frontend's end.
  var arenaPageCount: Int { front.arenaPageCount }
}
