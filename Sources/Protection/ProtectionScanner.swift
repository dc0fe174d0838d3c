// SPDX-License-Identifier: MIT

public import GuestMemory

/// Protection of data that lies scattered over pages: makes and checks tuples without allocating.
///
/// Data and tuples are lists of extents, each a whole number of sectors or of tuples long; an interval may lie on
/// several extents.
public struct ProtectionScanner: Sendable {
  /// The form of the tuples.
  public let form: ProtectionForm
  /// The guard's tables.
  public let tables: GuardTables

  /// Makes a scanner.
  public init(form: ProtectionForm, tables: GuardTables = GuardTables()) {
    self.form = form
    self.tables = tables
  }

  /// Intervals in so many bytes.
  @inlinable
  public func intervals(in byteCount: Int) -> Int { byteCount >> form.intervalShift }
  /// Bytes of tuples for so many bytes of data.
  @inlinable
  public func tupleByteCount(for byteCount: Int) -> Int { intervals(in: byteCount) &* ProtectionTuple.byteCount }

  /// Makes a tuple for each interval of `data`.
  ///
  /// - Parameters:
  ///   - sector: the first 512-byte sector of the data's place on the disk.
  ///   - start: what a request of type 2 starts with.
  ///   - tuples: where they go; as long as ``tupleByteCount(for:)`` says.
  @inlinable
  public func generate(
    _ data: MemoryExtentList, sector: UInt64, start: UInt32 = 0, into tuples: inout TupleCursor
  ) {
    let first = sector >> UInt64(form.sectorsShift)
    var cursor = DataCursor(data)
    for place in 0..<intervals(in: data.byteCount) {
      let tuple = ProtectionTuple(
        guardTag: cursor.nextGuard(form, tables), applicationTag: form.applicationTag,
        referenceTag: form.referenceTag(place: place, first: first, start: start))
      tuples.store(tuple.memory)
    }
  }

  /// Checks each interval of `data` against its tuple, each tuple fetched once.
  ///
  /// - Parameter copy: where the tuples that were checked go as well.
  /// - Returns: the first violation, or nil.
  @inlinable
  public func verify(
    _ data: MemoryExtentList, sector: UInt64, start: UInt32 = 0, against tuples: inout TupleCursor,
    copy: inout TupleCursor
  ) -> ProtectionViolation? {
    let first = sector >> UInt64(form.sectorsShift)
    var cursor = DataCursor(data)
    var violation: ProtectionViolation?
    for place in 0..<intervals(in: data.byteCount) {
      let word = tuples.load()
      copy.store(word)
      let verdict = form.judge(
        ProtectionTuple(memory: word), guardTag: cursor.nextGuard(form, tables),
        referenceTag: form.referenceTag(place: place, first: first, start: start))
      if verdict != .sound, violation == nil {
        violation = ProtectionViolation(
          sector: (first &+ UInt64(place)) << UInt64(form.sectorsShift), verdict: verdict)
      }
    }
    return violation
  }

  /// Checks each interval of `data` against its tuple.
  @inlinable
  public func verify(
    _ data: MemoryExtentList, sector: UInt64, start: UInt32 = 0, against tuples: inout TupleCursor
  ) -> ProtectionViolation? {
    var nowhere = TupleCursor()
    return verify(data, sector: sector, start: start, against: &tuples, copy: &nowhere)
  }
}

/// A walk over tuples in scattered memory.
public struct TupleCursor {
  @usableFromInline let list: MemoryExtentList?
  @usableFromInline var index = 0
  @usableFromInline var region: SharedRegion?
  @usableFromInline var offset = 0
  /// What the stored form differs by: all ones in a tag file, where a hole must mean "not protected".
  @usableFromInline let inversion: UInt64

  /// Goes nowhere: what is stored is dropped.
  @inlinable
  public init() {
    list = nil
    region = nil
    inversion = 0
  }

  /// Walks over one region.
  @inlinable
  public init(_ region: SharedRegion, isInverted: Bool = false) {
    list = nil
    self.region = region
    inversion = isInverted ? .max : 0
  }

  /// Walks over a list of extents.
  @inlinable
  public init(_ list: MemoryExtentList) {
    self.list = list
    region = list.count > 0 ? list[0].region : nil
    inversion = 0
  }

  @inlinable @inline(__always)
  mutating func step() {
    guard let list, let region, offset >= region.byteCount, index &+ 1 < list.count else { return }
    index &+= 1
    offset = 0
    self.region = list[index].region
  }

  /// The next tuple's eight bytes; those of an unprotected one behind the end.
  @inlinable
  public mutating func load() -> UInt64 {
    step()
    guard let region, offset < region.byteCount else { return ProtectionTuple.unprotected.memory }
    defer { offset &+= ProtectionTuple.byteCount }
    return region.load(UInt64.self, at: offset) ^ inversion
  }

  /// What a request of type 2 starts with: the reference tag of its first tuple, which stays the next one.
  @inlinable
  public func startOfType2() -> UInt32 {
    var ahead = self
    return ProtectionTuple(memory: ahead.load()).referenceTag
  }

  /// Stores the next tuple's eight bytes; nothing behind the end.
  @inlinable
  public mutating func store(_ word: UInt64) {
    step()
    guard let region, offset < region.byteCount else { return }
    region.store(word ^ inversion, at: offset)
    offset &+= ProtectionTuple.byteCount
  }
}

/// A walk over data in scattered memory, interval by interval.
@usableFromInline
struct DataCursor {
  @usableFromInline let list: MemoryExtentList
  @usableFromInline var index = 0
  @usableFromInline var offset = 0

  @inlinable
  init(_ list: MemoryExtentList) { self.list = list }

  /// The guard tag of the next interval.
  @inlinable
  mutating func nextGuard(_ form: ProtectionForm, _ tables: GuardTables) -> UInt16 {
    var left = form.intervalByteCount
    var crc: UInt16 = 0
    var sum: UInt64 = 0
    while left > 0, index < list.count {
      let extent = list[index]
      let count = min(left, extent.byteCount &- offset)
      if count == 0 {
        index &+= 1
        offset = 0
        continue
      }
      // SAFETY: `count` bytes from `offset` lie in the extent, whose memory the submitter vouches for.
      let bytes = unsafe UnsafeRawBufferPointer(
        start: UnsafeRawPointer(bitPattern: extent.address &+ UInt(bitPattern: offset)), count: count)
      if form.guardKind == .crc {
        crc = unsafe tables.crc(of: bytes, after: crc)
      } else {
        sum = unsafe tables.sum(of: bytes, after: sum)
      }
      offset &+= count
      left &-= count
    }
    return form.guardKind == .crc ? crc : tables.checksum(ofSum: sum)
  }
}
