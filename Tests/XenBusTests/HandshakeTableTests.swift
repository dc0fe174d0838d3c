// SPDX-License-Identifier: MIT

import Testing
import XenBus

/// The whole handshake of both ends, written out.
///
/// A row is an end's own state 0...8, a column its peer's state 0...8; the first word of a row is what the end does, the
/// second where it stands afterwards.
@Suite("The handshake, every state against every state")
struct HandshakeTableTests {
  /// blkfront's `blkback_changed`: `.` nothing, `P` publish rings, `B` publish rings and connect, `C` connect, `R` read
  /// the capacity, `X` close.
  static let frontend = [
    "....BXX..  000046600",
    "..P.BXX..  113146611",
    "....BXX..  222246622",
    "....CXX..  333346633",
    "....RXX..  444446644",
    "....BXX..  555546655",
    "....BX...  666646666",
    "....BXX..  777746677",
    "....BXX..  888846688",
  ]

  /// blkback's `frontend_changed`: `.` nothing, `W` wait again, `K` map the rings and connect, `S` start closing, `X`
  /// close, `U` unregister, `!` refuse.
  ///
  /// After `K` the state changes only when the rings are mapped and the disk is open.
  static let backend = [
    "U.!KKSX!!  605005655",
    "U.!KKSX!!  615115655",
    "U.!KKSX!!  625225655",
    "U.!KKSX!!  635335655",
    "U.!..SX!!  645445655",
    "U.!KKSX!!  655555655",
    "UW!KKSX!!  625665655",
    "U.!KKSX!!  675775655",
    "U.!KKSX!!  685885655",
  ]

  @Test("a frontend does what blkfront does in all 81 cases")
  func frontendTable() {
    let letters: [Character: FrontendAction] = [
      ".": .none, "P": .publishRings, "B": .publishRingsAndConnect, "C": .connect, "R": .readCapacity, "X": .close,
    ]
    for own in XenbusState.allCases {
      for peer in XenbusState.allCases {
        let (letter, digit) = Self.cell(Self.frontend, own, peer)
        var handshake = FrontendHandshake(state: own)
        #expect(handshake.peerMoved(to: peer) == letters[letter], "own \(own), backend \(peer)")
        #expect(handshake.state.rawValue == digit, "own \(own), backend \(peer)")
      }
    }
  }

  @Test("a backend does what blkback does in all 81 cases")
  func backendTable() {
    let letters: [Character: BackendAction] = [
      ".": .none, "W": .awaitReconnect, "K": .connect, "S": .startClosing, "X": .close, "U": .unregister,
    ]
    for own in XenbusState.allCases {
      for peer in XenbusState.allCases {
        let (letter, digit) = Self.cell(Self.backend, own, peer)
        var handshake = BackendHandshake(state: own)
        let action = handshake.peerMoved(to: peer)
        #expect(action == (letter == "!" ? .refuse(peer) : letters[letter]), "own \(own), frontend \(peer)")
        #expect(handshake.state.rawValue == digit, "own \(own), frontend \(peer)")
      }
    }
  }

  @Test("the steps that an end takes by itself")
  func ownSteps() {
    var backend = BackendHandshake()
    #expect(backend.state == .initialising)
    backend.probed()
    #expect(backend.state == .initWait)
    backend.connected()
    #expect(backend.state == .connected)
    backend.fail()
    #expect(backend.state == .closing)
    var frontend = FrontendHandshake()
    #expect(frontend.state == .initialising)
    #expect(frontend.resume() == .publishRings && frontend.state == .initialised)
    frontend.fail()
    #expect(frontend.state == .closing)
    frontend.close()
    #expect(frontend.state == .closed)
  }

  @Test("whoever goes first, two ends that only look at each other's state come to 4 and 4")
  func bothWays() {
    for backendLooksFirst in [true, false] {
      var frontend = FrontendHandshake()
      var backend = BackendHandshake()
      backend.probed()
      for round in 0..<6 {
        if (round % 2 == 0) == backendLooksFirst {
          if backend.peerMoved(to: frontend.state) == .connect { backend.connected() }
        } else {
          _ = frontend.peerMoved(to: backend.state)
        }
      }
      #expect(frontend.state == .connected && backend.state == .connected)
    }
  }

  @Test("the states have their numbers")
  func numbers() {
    #expect(XenbusState.allCases.map(\.rawValue) == Array(0...8))
    #expect("\(XenbusState.allCases)".contains("unknown"))
    #expect(XenbusState.initWait.rawValue == 2 && XenbusState.connected.rawValue == 4)
    #expect(XenbusState.closing.rawValue == 5 && XenbusState.reconfigured.rawValue == 8)
  }

  static func cell(_ table: [String], _ own: XenbusState, _ peer: XenbusState) -> (Character, Int) {
    let words = table[own.rawValue].split(separator: " ").map(Array.init)
    return (words[0][peer.rawValue], words[1][peer.rawValue].wholeNumberValue ?? -1)
  }
}
