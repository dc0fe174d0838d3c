// SPDX-License-Identifier: MIT

import Glibc
import Testing

extension BadCall {
  static let stores: [BadCall] = [
    BadCall(
      "a store in a missing folder", "pvdisk xenstored --socket no/xs", 2, ["no/xs", "no folder no;", "make it"]),
    BadCall(
      "a store's path that is too long", "pvdisk xenstored --socket \(String(repeating: "x", count: 108))", 2,
      ["108 bytes", "at most 107", "shorter"]),
    BadCall(
      "a store where a file is", "pvdisk xenstored --socket d.img", 2, ["d.img", "exists already", "remove it"]),
    BadCall(
      "a store where another is served", "pvdisk xenstored --socket xs", 2, ["xs", "a running daemon", "stop it"],
      before: "pvdisk xenstored --daemonize --pid-file pid --socket xs", after: "kill $(cat pid)"),
    BadCall(
      "a second guest's socket that cannot be made", "pvdisk xenstored --socket xs --guest-socket 5=no/xs", 2, ["no/xs"]
    ),
    BadCall("a store's trace that cannot be written", "pvdisk xenstored --socket xs -T no/trace", 2, ["no/trace"]),
    BadCall("a saved state that is none", "pvdisk xenstored --socket xs --restore d.img", 2, ["d.img"]),
    BadCall(
      "a mount's store where another is served", "pvdisk mount --xenstore-socket xs d.img m", 2,
      ["xs", "a running daemon"],
      before: "pvdisk xenstored --daemonize --pid-file pid --socket xs", after: "kill $(cat pid)"),
    BadCall("no store to talk to", "pvdisk xenstore read --socket xs /tool", 2, ["xs"]),
  ]

  static let storeUsage: [BadCall] = [
    BadCall("a store on disk", "pvdisk xenstored --socket xs -I off", 1, ["memory", "--save"]),
    BadCall("a quota that is none", "pvdisk xenstored --socket xs -Q colour=3", 1, ["colour=3", "nodes=1000"]),
    BadCall("a quota below nothing", "pvdisk xenstored --socket xs -E -1", 1, ["-E", "--help"]),
    BadCall("a timeout that is none", "pvdisk xenstored --socket xs -w watch=3", 1, ["watch=3", "watch-event"]),
    BadCall("a socket mode that is none", "pvdisk xenstored --socket xs --socket-mode 999", 1, ["999", "660"]),
    BadCall("a guest that is none", "pvdisk xenstored --socket xs --guest-socket 0=x", 1, ["0=x", "5=/tmp/xs5"]),
  ]
}

extension BadInputTests {
  @Test("a store's socket that cannot be served ends with status 2", arguments: BadCall.stores)
  func stores(_ call: BadCall) throws { try check(call) }

  @Test("a store's option that makes no sense ends with status 1", arguments: BadCall.storeUsage)
  func storeUsage(_ call: BadCall) throws { try check(call) }

  @Test("a folder in which this user may not write is named", .enabled(if: geteuid() == 0))
  func notWritable() throws {
    let scene = try Scene(size: nil)
    try scene.ok("mkdir locked; chmod 755 locked; cp '\(Program.pvdisk)' command; chmod 755 command")
    let call = "setpriv --reuid 65534 --regid 65534 --clear-groups ./command xenstored --socket locked/xs"
    let outcome = try scene.shell("LD_LIBRARY_PATH=$(dirname '\(Program.pvdisk)') timeout 60 \(call)")
    #expect(outcome.status == 2, "\(outcome)")
    #expect(outcome.errors.contains("the folder locked is not writable for this user"), "\(outcome)")
  }
}

@Suite("pvdisk xenstored", .enabled(if: Program.isInstalled("xenstore-ls") && Program.isInstalled("python3")))
struct XenStoredTests {
  /// A shell function that sends one message and prints the reply: `ask SOCKET TYPE WORD...`.
  private static let ask = """
    ask() { timeout 60 python3 -c '
    from socket import AF_UNIX, MSG_WAITALL, socket
    from struct import pack, unpack
    from sys import argv
    wire = socket(AF_UNIX)
    wire.connect(argv[1])
    body = b"".join(word.encode() + bytes(1) for word in argv[3:])
    wire.sendall(pack("<4I", int(argv[2]), 1, 0, len(body)) + body)
    size = unpack("<4I", wire.recv(16, MSG_WAITALL))[3]
    print(wire.recv(size, MSG_WAITALL).decode().rstrip(chr(0)))
    ' "$@"; }
    """

  /// Runs a script beside a daemon, and ends the daemon.
  func beside(_ options: String, _ script: String) throws -> String {
    let scene = try Scene(size: nil)
    return try scene.ok(
      """
      export XENSTORED_PATH=$PWD/xs
      timeout 60 '\(Program.pvdisk)' xenstored --daemonize --pid-file pid --socket xs \(options) >log 2>&1
      trap 'kill $(cat pid)' EXIT
      \(Self.ask)
      \(script)
      """)
  }

  private static let limits = """
    nodes            :        7 Nodes per domain
    watches          :        3 Watches per domain
    outstanding      :        9 Outstanding requests per domain
    memory           :   100000 Total Xenstore memory per domain
    transactions     :        2 Active transactions per domain
    transaction-nodes:        5 Max. number of accessed nodes per transaction
    node-permissions :        4 Max. number of permissions per node
    path-max         :      100 Max. length of a node path
    node-size        :      300 Max. size of a node
    """

  @Test(
    "takes the letters and the names of xenstored's options",
    arguments: [
      "-D -N -E 7 -S 300 -W 3 -t 2 -A 4 -M 100 -Q transaction-nodes=5 -Q memory=100000 -Q outstanding=9 -q memory=500 "
        + "-w watch-event=5 -R -I on -V -T trace",
      "--no-domain-init --no-fork --entry-nb 7 --entry-size 300 --watch-nb 3 --transaction 2 --perm-nb 4 --path-max 100 "
        + "--quota transaction-nodes=5 --quota memory=100000 --quota outstanding=9 --quota-soft memory=500 "
        + "--timeout watch-event=5 --no-recovery --internal-db on --verbose --trace-file trace",
    ])
  func options(_ options: String) throws {
    // --daemonize contradicts -N, which is left to a run of its own.
    let words = options.replacing("-N ", with: "").replacing("--no-fork ", with: "")
    let output = try beside(words, "ask xs 0 quota; ask xs 0 quota-soft; grep -c 'IN 0x' trace")
    #expect(output.contains(Self.limits), "\(output)")
    #expect(output.contains("memory           :      500 "), "\(output)")
    #expect(Int(output.split(separator: "\n").last ?? "").map { $0 >= 2 } == true, "the trace has messages: \(output)")
  }

  @Test("-N, -P and -F: stays, prints its number and writes it to a file")
  func foreground() throws {
    let scene = try Scene(size: nil)
    let output = try scene.ok(
      """
      timeout 60 '\(Program.pvdisk)' xenstored -N -P -F pid --socket xs > number &
      for i in $(seq 600); do [ -s number ] && break; sleep 0.1; done
      cat number pid
      kill $(cat pid)
      wait $! && ls
      """)
    let lines = output.split(separator: "\n").map(String.init)
    #expect(lines.count == 4 && lines[0] == lines[1] && lines[2...] == ["m", "number"], "\(output)")
  }

  @Test("-H prints the help")
  func help() throws {
    #expect(try Scene(size: nil).ok("pvdisk xenstored -H").contains("--entry-nb"))
  }

  @Test("a guest's nodes outside its home go with it, and stay with -K", arguments: [false, true])
  func orphans(areKept: Bool) throws {
    let output = try beside(
      (areKept ? "-K " : "") + "--guest-socket 5=guest",
      """
      xenstore-write /board ''; xenstore-chmod /board b0
      XENSTORED_PATH=$PWD/guest xenstore-write /board/note x
      ask xs 9 5
      xenstore-ls -fp /board
      """)
    #expect(output == "OK\n" + (areKept ? "/board/note = \"x\"   (b0)\n" : ""))
  }

  @Test("a saved state comes back, with the limits that the options name now")
  func saves() throws {
    let scene = try Scene(size: nil)
    let output = try scene.ok(
      """
      export XENSTORED_PATH=$PWD/xs
      \(Self.ask)
      start() { timeout 60 '\(Program.pvdisk)' xenstored --daemonize --pid-file pid --socket xs --save state "$@"; }
      stop() { kill $(cat pid); for i in $(seq 600); do [ -e xs ] || [ -e pid ] || return 0; sleep 0.1; done; return 1; }
      start -E 77 -W 66
      xenstore-write /kept value
      stop
      start --restore state -W 55
      xenstore-read /kept
      ask xs 0 quota | grep -E '^(nodes|watches)' | tr -s ' ' | cut -d' ' -f1-3
      stop
      """)
    #expect(output == "value\nnodes : 77\nwatches : 55\n")
  }
}

@Suite("pvdisk xenstore beside the stock clients", .enabled(if: Program.isInstalled("xenstore-ls")))
struct XenStoreCommandTests {
  /// What is asked of both: the words behind `pvdisk xenstore` and behind `xenstore-`.
  static let questions = [
    "list /", "list -p /a", "list /none", "ls", "ls -f", "ls -fp", "ls -p /a", "ls /none", "read /a/b",
    "read -p /a/b /a/c",
    "read /a/raw", "read -R /a/raw", "read /none", "read '/bad path'", "exists /a", "exists /none", "exists /a /none",
  ]

  @Test("says what they say of the same nodes")
  func sameAnswers() throws {
    let scene = try Scene(size: nil)
    let questions = Self.questions.map { "ask \($0)" }.joined(separator: "\n")
    try scene.ok(
      """
      export XENSTORED_PATH=$PWD/xs
      timeout 60 '\(Program.pvdisk)' xenstored --daemonize --pid-file pid --socket xs
      trap 'kill $(cat pid)' EXIT
      xenstore-write /a/b one /a/c 'two words' /a/deep/er 3 /a/raw "$(printf 'tab\\there\\001\\nline \\\\')"
      xenstore-chmod /a/b n1 r2 b3
      ask() {
        echo "== $*" | tee -a ours theirs > /dev/null
        timeout 60 '\(Program.pvdisk)' xenstore "$@" >> ours 2> /dev/null || echo "fails" >> ours
        timeout 60 xenstore-"$@" >> theirs 2> /dev/null || echo "fails" >> theirs
      }
      \(questions)
      """)
    #expect(try Files.text(scene.folder + "/ours") == Files.text(scene.folder + "/theirs"))
    #expect(try Files.text(scene.folder + "/ours").contains("/a/b = \"one\"   (n1,r2,b3)"))
  }

  @Test("writes, removes, permits and watches, as the stock clients see")
  func changes() throws {
    let scene = try Scene(size: nil)
    let output = try scene.ok(
      """
      export XENSTORED_PATH=$PWD/xs
      timeout 60 '\(Program.pvdisk)' xenstored --daemonize --pid-file pid --socket xs
      trap 'kill $(cat pid)' EXIT
      timeout 60 '\(Program.pvdisk)' xenstore watch -n 3 /w > seen &
      watcher=$!
      for i in $(seq 600); do [ -s seen ] && break; sleep 0.1; done
      pvdisk xenstore write /w/x 1 /w/y 2
      wait $watcher
      cat seen
      pvdisk xenstore chmod -r /w n5 r6
      xenstore-ls -fp /w
      pvdisk xenstore rm /w/x
      xenstore-list /w
      pvdisk xenstore rm /none/at/all 2>&1 || true
      """)
    #expect(
      output == """
        /w
        /w/x
        /w/y
        /w/x = "1"   (n5,r6)
        /w/y = "2"   (n5,r6)
        y
        pvdisk: could not remove path /none/at/all: the store answered ENOENT

        """)
  }
}
