// SPDX-License-Identifier: MIT

public import BlockIO
public import GuestMemory

/// A disk shown as one file.
///
///     let mount = try FuseMount.mount(device: disk, options: FuseOptions(mountPoint: "/mnt/disk"))
///     try mount.start()                        // /mnt/disk/xvda is there now
///     let outcome = mount.waitUntilUnmounted() // fusermount3 -u, or mount.requestStop() from anywhere
///
/// The file behaves as the disk does: reads and writes of any bytes, `fsync` is a flush, a punched hole is a discard, a
/// write past the end is `ENOSPC`, `O_TRUNC` does nothing, another size is refused with `EPERM`. Nothing is cached by
/// the kernel. Owner, mode and times live as long as the mount.
///
/// **Assumptions.** The process does not use its own mount from a thread that the mount waits for.
public final class FuseMount<Device: BlockDevice>: Sendable {
  /// The disk.
  public let device: Device
  @usableFromInline let lifecycle: MountLifecycle

  init(device: Device, lifecycle: MountLifecycle) {
    self.device = device
    self.lifecycle = lifecycle
  }

  /// Mounts; whoever opens the file waits until ``start()``.
  /// - Throws: ``FuseError`` with what the user has to mend.
  public static func mount(device: Device, options: FuseOptions) throws(FuseError) -> FuseMount {
    let name = options.fileName
    guard (1...255).contains(name.utf8.count), !name.contains("/"), !name.utf8.contains(0), name != ".", name != ".."
    else { throw .invalidFileName(name) }
    let reactorCount = max(1, min(options.reactorCount ?? device.queueCount, device.queueCount))
    let isReadOnly = options.isReadOnly || device.geometry.isReadOnly
    return FuseMount(
      device: device,
      lifecycle: try MountLifecycle(options: options, reactorCount: reactorCount, isReadOnly: isReadOnly))
  }

  /// Starts a reactor for each queue and returns when all of them serve.
  /// - Throws: ``FuseError`` when a queue cannot be made; the mount is undone then.
  @inlinable
  public func start() throws(FuseError) {
    try lifecycle.start { self.runReactor($0) }
  }

  /// Waits until the file system is gone and the disk is flushed; unmounts when a stop is asked for.
  ///
  /// Call it once, on a thread that is free to wait.
  public func waitUntilUnmounted() -> FuseOutcome { lifecycle.waitUntilUnmounted() }

  /// Asks the mount to end; may be called from any thread, and from a signal handler.
  public func requestStop(_ urgency: StopUrgency = .orderly) { lifecycle.requestStop(urgency) }

  /// What the mount has done so far.
  public var statistics: FuseStatistics { lifecycle.statistics() }

  /// Tells the kernel to forget the size that it remembers: the disk has grown.
  public func announceSize() { lifecycle.session.forgetAttributes(of: lifecycle.namespace.diskNode) }

  /// The file that is the disk.
  public var filePath: String {
    let point = lifecycle.session.mountPoint
    return point.shape == .file ? point.path : "\(point.path)/\(lifecycle.options.fileName)"
  }

  /// Serves one queue on the calling thread, until the end.
  @inlinable
  func runReactor(_ index: Int) {
    let shape = lifecycle.bufferDemand(for: index, sectorSize: device.geometry.logicalSectorSize)
    do {
      let queue = try makeQueue(index, shape)
      let buffers = try (0..<shape.count).map { slot throws(FuseError) in
        guard let region = queue.buffer(slot).region, region.byteCount >= shape.byteCount else {
          throw FuseError.device(.unsupported("the disk gave no buffer of the size that was asked for"))
        }
        return region
      }
      let slots = Array(buffers.dropLast())
      let descriptor = queue.waitDescriptor
      if lifecycle.isOverRing {
        serve(queue, try lifecycle.makeRing(for: index, deviceDescriptor: descriptor, buffers: slots), index, shape)
      } else {
        serve(queue, try lifecycle.makeChannel(for: index, deviceDescriptor: descriptor, buffers: slots), index, shape)
      }
    } catch {
      lifecycle.reportStart(error)
    }
  }

  /// Runs the reactor of one queue over one transport.
  @inlinable
  func serve<Transport: FuseTransport & ~Copyable>(
    _ queue: consuming Device.Queue, _ transport: consuming Transport, _ index: Int, _ shape: BufferDemand
  ) {
    var reactor = FuseReactor<Device, Transport>(
      device: device, queue: queue, transport: transport,
      settings: lifecycle.settings(for: index, slotCount: shape.count - 1))
    lifecycle.reportStart(nil)
    reactor.run()
    if lifecycle.reportEnd() { lifecycle.reportFlush(reactor.flush()) }
    if Transport.reachesNeighbours { reactor.part(from: lifecycle.parting) }
  }

  @inlinable
  func makeQueue(_ index: Int, _ shape: BufferDemand) throws(FuseError) -> Device.Queue {
    do {
      return try device.makeQueue(index, buffers: shape)
    } catch {
      throw .device(error)
    }
  }
}
