// SPDX-License-Identifier: MIT

import BlockIO
import GuestMemory
import XenWire

/// Requests whose every descriptor says where on the disk it goes (the thread's 16-byte entries): one request may touch many
/// places. The places are served one after the other, so that the image never has more in hand than the ring has slots.
extension BackQueue where Image: ~Copyable {
  /// Checks the descriptors in `scratch`, joins those that follow each other on the disk to ranges, finds their pages and
  /// starts the first range.
  mutating func transferScattered(_ request: Int, _ operation: BlockOperation, segmentCount: Int) {
    counters.add(UInt64(segmentCount), to: QueueCounter.segments.rawValue)
    let isRead = operation == .read
    let dataCount = protection == .sector ? dataSegments(of: segmentCount) : segmentCount
    guard dataCount > 0, isRead || !validator.isReadOnly,
      let count = gatherRanges(request, segmentCount: dataCount),
      mapPages(request, count: segmentCount, writable: abilities.isPersistent || isRead)
    else { return finish(request, .error) }
    appendExtents(request, segmentCount: dataCount)
    if protection == .sector { appendTuples(request, from: dataCount, to: segmentCount) }
    unsafe pending.requests[request].rangesLeft = Int32(count - 1)
    unsafe pending.requests[request].sector = pending[request, range: 0].sector
    if count == 1 { return start(request, operation) }
    if !isRead, protection != .off, !isVouchedFor(request) { return finish(request, .error) }
    submitRange(request, 0)
  }

  /// Checks every segment by itself and every range against the disk.
  /// - Returns: the number of ranges, or nil when anything is wrong.
  private mutating func gatherRanges(_ request: Int, segmentCount: Int) -> Int? {
    var count = 0
    var total: UInt64 = 0
    for index in 0..<segmentCount {
      let segment = unsafe Segment(bits: scratch.segments[index])
      guard segment.isValid, UInt64(segment.sectorCount) & validator.sectorMask == 0 else { return nil }
      let sectors = UInt64(segment.sectorCount)
      unsafe scratch.missing[index] = segment.reference
      total &+= sectors
      let sector = unsafe scratch.sectors[index]
      if count > 0, pending[request, range: count - 1].end == sector {
        pending[request, range: count - 1].sectorCount += sectors
      } else {
        pending[request, range: count] = RequestRange(sector: sector, sectorCount: sectors)
        count += 1
      }
    }
    for index in 0..<count {
      let range = pending[request, range: index]
      guard validator.validate(start: range.sector, count: range.sectorCount) != nil else { return nil }
    }
    unsafe pending.requests[request].sectorCount = total
    return count
  }

  /// Lists the memory of every range; extents are joined within a range only.
  private mutating func appendExtents(_ request: Int, segmentCount: Int) {
    var range = -1
    var left: UInt64 = 0
    for index in 0..<segmentCount {
      let isStart = left == 0
      if isStart {
        range += 1
        left = pending[request, range: range].sectorCount
        pending[request, range: range].firstExtent = unsafe pending.requests[request].extentCount
      }
      let segment = unsafe Segment(bits: scratch.segments[index])
      let offset = UInt(segment.firstSector) << UInt(PageGeometry.sectorShift)
      let byteCount = segment.sectorCount << PageGeometry.sectorShift
      unsafe pending.append(
        scratch.addresses[index] &+ offset, byteCount: byteCount, to: request, joining: !isStart)
      let first = pending[request, range: range].firstExtent
      pending[request, range: range].extentCount = unsafe pending.requests[request].extentCount - first
      left -= UInt64(segment.sectorCount)
    }
  }

  private mutating func submitRange(_ request: Int, _ index: Int) {
    let range = pending[request, range: index]
    guard let checked = validator.validate(start: range.sector, count: range.sectorCount) else {
      return finish(request, .error)
    }
    let isRead = unsafe pending.requests[request].operation == .read
    let memory = unsafe MemoryExtentList(
      unsafeStart: pending.extents + request * pending.perRequest + Int(range.firstExtent),
      count: Int(range.extentCount))
    let io = IORequest(
      tag: UInt64(request), operation: isRead ? .read : .write, sectors: checked.sectors, memory: memory)
    guard case .accepted = image.submit(io) else { preconditionFailure("the image takes a whole ring of requests") }
  }

  /// The image has done a range: starts the next one.
  @usableFromInline
  mutating func startNextRange(_ request: Int) {
    unsafe pending.requests[request].rangesLeft -= 1
    unsafe pending.extras[request].range += 1
    submitRange(request, unsafe Int(pending.extras[request].range))
  }
}

extension PendingRequests {
  /// One range of a request.
  subscript(request: Int, range index: Int) -> RequestRange {
    get {
      guard let ranges = unsafe ranges else { preconditionFailure("ranges in a format without them") }
      precondition(index >= 0 && index < perRequest, "no such range")
      return unsafe ranges[request * perRequest + index]
    }
    set {
      guard let ranges = unsafe ranges else { preconditionFailure("ranges in a format without them") }
      precondition(index >= 0 && index < perRequest, "no such range")
      unsafe (ranges + request * perRequest + index).initialize(to: newValue)
    }
  }
}
