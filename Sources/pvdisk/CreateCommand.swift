// SPDX-License-Identifier: MIT

import ArgumentParser
import BlockIO
import DiskImages

/// `pvdisk create`: a sparse image.
struct CreateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "create", abstract: "Make a sparse raw image of zeros; an existing file is left alone.")

  @Argument(help: ArgumentHelp("The file to make.", valueName: "image"))
  var image: String

  @Argument(help: ArgumentHelp("Its size, as 64M or 1G.", valueName: "size"))
  var size: ByteSize

  func run() throws {
    guard size.byteCount > 0, size.byteCount % 512 == 0 else {
      throw ValidationError("An image is a whole number of 512-byte sectors; \(size.byteCount) bytes are not")
    }
    do throws(BlockError) {
      try RawImage.create(path: image, byteCount: size.byteCount)
    } catch {
      if case .system(_, _, 17) = error {
        throw Refusal("\(image) exists already; remove it or choose another name", status: ExitStatus.image)
      }
      throw Refusal(error.sentence, status: ExitStatus.image)
    }
  }
}
