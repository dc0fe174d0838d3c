// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory

/// I/O that travels through another queue, because the backend has fewer queues than there are users.
extension FrontQueue {
  /// I/Os of others that a queue may carry at once, beside those of its own user.
  public static var visitorRoom: Int { 32 }

  /// Accepts an I/O of another queue's user.
  public mutating func submitVisit(_ request: IORequest, tuples: MemoryExtent?) -> SubmitOutcome {
    let outcome = submit(request, tuples: tuples)
    if case .accepted = outcome { counters.add(1, to: FrontCounter.visits.rawValue) }
    return outcome
  }

  /// Takes the next I/O that waits for a ring; it stays in this queue's hand until ``endElsewhere(_:errorCode:)``.
  public mutating func takeElsewhere() -> (number: Int, request: IORequest, tuples: MemoryExtent?)? {
    while isSuspended, let io = table.nextToIssue {
      table.dropFromIssueQueue()
      if unsafe table.ios[io].errorCode == 0, unsafe !table.ios[io].isIssued {
        unsafe table.ios[io].isElsewhere = true
        return (io, unsafe table.ios[io].request, tuples(of: io))
      }
      table.finish(io)
    }
    return nil
  }

  /// An I/O that another queue carries.
  public func request(elsewhere number: Int) -> (request: IORequest, tuples: MemoryExtent?)? {
    guard unsafe table.ios[number].isElsewhere else { return nil }
    return (unsafe table.ios[number].request, tuples(of: number))
  }

  /// Takes an I/O back that nobody carried; it waits for a ring again.
  public mutating func returnFromElsewhere(_ number: Int) {
    unsafe precondition(table.ios[number].isElsewhere, "nobody carried that I/O")
    unsafe table.ios[number].isElsewhere = false
    table.enqueueForIssue(number)
    canIssueMore = true
  }

  /// Ends an I/O that another queue has carried out.
  public mutating func endElsewhere(_ number: Int, errorCode: CInt) {
    unsafe precondition(table.ios[number].isElsewhere, "nobody carried that I/O")
    unsafe table.ios[number].isElsewhere = false
    unsafe table.ios[number].errorCode = errorCode
    table.finish(number)
  }
}
