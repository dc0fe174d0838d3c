// SPDX-License-Identifier: MIT

import BlockIO
import Glibc
import GuestMemory

/// A request on its way through the queue's ring: where it stands and what remains.
///
/// No I/O happens in here.
struct RequestSlot {
  /// What the slot's entry in the ring asks the kernel for.
  enum Step: UInt8 {
    case read, write
    /// Makes writes durable, for itself and for those that joined it.
    case sync
    /// A flush that another slot's sync, not started when it came, answers too.
    case joinedSync
    /// `BLOCK_URING_CMD_DISCARD`; kernels before 6.12 have only `punch`.
    case blockDiscard
    /// The same command once more, for pages that came into the page cache while the first one was under way.
    case blockDiscardAgain
    case punch
    /// Zeroing by range, else by a hole, else by writing zeros.
    case zeroRange, zeroPunch, zeroData
    /// Zeros over the old contents, then to the device, then a hole.
    case secureData, secureSync, securePunch
  }

  /// What happens next.
  enum Outcome: Equatable {
    /// Prepare the step's entry again: something remains, or the step has changed.
    case again
    /// Complete with 0 or a positive `errno`.
    case done(CInt)
  }

  static let retryLimit = 1000

  var tag: UInt64 = 0
  var step = Step.read
  var forceUnitAccess = false
  var retryCount = 0
  /// The first byte of the image that the request is about, and the number of bytes.
  var start: UInt64 = 0
  var byteCount: UInt64 = 0
  /// The bytes that have been moved so far.
  var moved: UInt64 = 0
  var memory: MemoryExtentList?
  /// The extent that the next byte is in, and the bytes of it that have been moved.
  var extentIndex = 0
  var extentOffset = 0
  /// The failures that had been reported when a flush was submitted.
  var failureGeneration: UInt32 = 0
  /// The next free slot, or the next flush that waits for the same sync; -1 for none.
  var next: Int32 = -1

  var remaining: UInt64 { byteCount - moved }

  /// Whether the step moves bytes, so that its result is their number.
  var movesBytes: Bool {
    switch step {
    case .read, .write, .zeroData, .secureData: true
    default: false
    }
  }

  /// Takes what the kernel answered (at least 0, or a negative `errno`) and says how to go on.
  mutating func advance(result: Int32) -> Outcome {
    // A block device's discard is busy while a neighbour dirties a page that the two share.
    let isBusy = result == -EBUSY && (step == .blockDiscard || step == .blockDiscardAgain)
    if result == -EINTR || result == -EAGAIN || isBusy {
      retryCount += 1
      return retryCount <= Self.retryLimit ? .again : .done(-result)
    }
    if movesBytes { return advanceTransfer(result) }
    let isUnsupported = result == -EOPNOTSUPP || result == -ENOSYS || result == -ENOTTY || result == -ENODEV
    switch step {
    case .blockDiscard where isUnsupported || result == -EINVAL: return go(to: .punch)
    case .zeroRange where isUnsupported: return go(to: .zeroPunch)
    case .zeroPunch where isUnsupported: return go(to: .zeroData)
    case .secureSync where result >= 0: return go(to: .securePunch)
    // The zeros are durable already; the hole would only have saved space.
    case .securePunch where isUnsupported: return .done(0)
    default: return .done(result < 0 ? -result : 0)
    }
  }

  private mutating func go(to step: Step) -> Outcome {
    self.step = step
    return .again
  }

  private mutating func advanceTransfer(_ result: Int32) -> Outcome {
    if result < 0 { return .done(-result) }
    // Nothing moved: the file ends before the disk does.
    if result == 0 { return .done(EIO) }
    move(by: UInt64(result))
    if remaining > 0 { return .again }
    return step == .secureData ? go(to: .secureSync) : .done(0)
  }

  /// Notes bytes that have been moved.
  mutating func move(by count: UInt64) {
    precondition(count <= remaining, "the kernel moved more than was asked for")
    moved += count
    guard let memory else { return }
    extentOffset += Int(count)
    while extentIndex < memory.count && extentOffset >= memory[extentIndex].byteCount {
      extentOffset -= memory[extentIndex].byteCount
      extentIndex += 1
    }
  }
}
