// SPDX-License-Identifier: MIT

import ArgumentParser
import BlockBack
import Glibc
import PVMachine

/// `pvdisk resize`: another size for a disk that is mounted.
struct ResizeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "resize",
    abstract: "Give a mounted disk another size; its users see it without remounting.",
    discussion: """
      With SIZE the image file is made so large first; without, pvdisk looks whether the file or block device has
      another size by now (it looks by itself every second, too). The backend tells the frontend through the store, as
      Linux's does.
      """)

  @OptionGroup var disk: DiskName

  @Argument(help: ArgumentHelp("The new size, as 64M or 1G.", valueName: "size"))
  var size: ByteSize?

  @Flag(help: "Allow a smaller size: what lies behind it is lost.")
  var shrink = false

  @Flag(name: .customLong("json"), help: "Print the disk's status as JSON.")
  var isJSON = false

  func run() throws {
    let report = try disk.ask(
      {
        $0.byteCount = size?.byteCount
        $0.isAllowed = shrink
      }, .resize)
    if isJSON { print(json(report)) }
  }
}

/// `pvdisk eject`: an empty CD-ROM drive.
struct EjectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "eject", abstract: "Take the medium out of a disk that was mounted with --cdrom.",
    discussion: "The file is empty afterwards, and reading it by those who have it open fails.")

  @OptionGroup var disk: DiskName

  func run() throws { _ = try disk.ask({ _ in }, .eject) }
}

/// `pvdisk insert`: another medium.
struct InsertCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "insert", abstract: "Put a medium into a disk that was mounted with --cdrom.")

  @OptionGroup var disk: DiskName

  @Argument(help: ArgumentHelp("The medium: a raw disk image or block device.", valueName: "image"))
  var image: String

  func run() throws {
    let isThere = unsafe access(image, F_OK) == 0
    let path = isThere ? absolutePath(image) : RunningDisks.lexicallyAbsolute(image)
    _ = try disk.ask({ $0.image = path }, .insert)
  }
}

/// `pvdisk suspend`: the backend goes away.
struct SuspendCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "suspend",
    abstract: "Let a disk's backend go in mid-I/O; the I/O waits for 'pvdisk resume'.")

  @OptionGroup var disk: DiskName

  func run() throws { _ = try disk.ask({ _ in }, .suspend) }
}

/// `pvdisk resume`: another backend, which may offer less.
struct ResumeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "resume",
    abstract: "Give a disk another backend in mid-I/O, as a migration does; the options say what it offers.",
    discussion: """
      A disk that was not suspended is suspended first. I/O that the old backend had not answered is issued again, cut to
      what the new one takes.
      """)

  @OptionGroup var disk: DiskName
  @OptionGroup(title: "What the backend offers (as the disk's first backend unless given)")
  var backend: BackendOptions

  func run() throws {
    let words = Array(CommandLine.arguments.dropFirst(2))
    _ = try disk.ask({ $0.arguments = words }, .resume)
  }
}

/// A backend's settings, under the names of Linux's module parameters and ours.
struct BackendOptions: ParsableArguments {
  @Option(help: ArgumentHelp("The most queues.", valueName: "N"))
  var queues: Int?

  @Option(help: ArgumentHelp("The most ring pages: 1, 2, 4, 8 or 16.", valueName: "N"))
  var ringPages: Int?

  @Option(help: ArgumentHelp("Segments of an indirect request; 0 offers none.", valueName: "N"))
  var indirectSegments: Int?

  @Flag(inversion: .prefixedNo, help: "Keep grants mapped.")
  var persistent: Bool?

  func validate() throws {
    if let ringPages, ![1, 2, 4, 8, 16].contains(ringPages) {
      throw ValidationError("--ring-pages must be 1, 2, 4, 8 or 16, not \(ringPages)")
    }
    if let queues, !(1...32).contains(queues) {
      throw ValidationError("--queues must be between 1 and 32, not \(queues)")
    }
    if let indirectSegments, !(0...4096).contains(indirectSegments) {
      throw ValidationError("--indirect-segments must be between 0 and 4096, not \(indirectSegments)")
    }
  }

  /// The settings, those that are not given as they are.
  func knobs(like knobs: BackendKnobs) -> BackendKnobs {
    var knobs = knobs
    if let queues { knobs.maxQueues = queues }
    if let ringPages { knobs.maxRingPageOrder = ringPages.trailingZeroBitCount }
    if let indirectSegments { knobs.maxIndirectSegments = indirectSegments }
    if let persistent { knobs.featurePersistent = persistent }
    return knobs
  }
}
