// swift-tools-version: 6.2
// SPDX-License-Identifier: MIT
import PackageDescription

/// The fuzzers, which link only with libFuzzer: `make fuzz` asks for them.
let isFuzzing = Context.environment["PVDISK_FUZZ"] != nil

/// The settings of every Swift target: what the compiler can check, it checks, and a warning is an error.
let strict: [SwiftSetting] = [
  .strictMemorySafety(),
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableExperimentalFeature("Lifetimes"),
  .enableExperimentalFeature("SuppressedAssociatedTypes"),
]
let checked = strict + (isFuzzing ? [.unsafeFlags(["-sanitize=address"])] : [])
/// Those of targets whose branches libFuzzer is to see.
///
/// Of two `-sanitize` the last is the only one.
let covered = isFuzzing ? strict + [.unsafeFlags(["-sanitize=fuzzer,address"])] : checked

/// The modules that hostile bytes reach.
let targetsOfFuzzing: Set = [
  "XenWire", "SharedRing", "XenStore", "XenBus", "BlockFront", "BlockBack", "DiskImages", "FuseExport", "Protection",
]

func module(_ name: String, imports: [Target.Dependency] = []) -> Target {
  .target(
    name: name, dependencies: imports, path: "Sources/\(name)",
    swiftSettings: targetsOfFuzzing.contains(name) ? covered : checked)
}

func tests(_ name: String, imports: [Target.Dependency], resources: [Resource] = []) -> Target {
  .testTarget(
    name: name, dependencies: imports + ["PVTestSupport"], path: "Tests/\(name)", resources: resources,
    swiftSettings: checked)
}

let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let arguments: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")
let collections: Target.Dependency = .product(name: "HashTreeCollections", package: "swift-collections")

/// What the fuzzers' harnesses are made of.
let harnessImports: [Target.Dependency] = [
  "CFuzzKernel", "PVMachine", "PVPeers", "PVTestSupport", "BlockFront", "BlockBack", "BlockIO", "SharedRing", "XenBus",
  "XenStore", "XenHypervisor", "XenWire", "GuestMemory", "FuseExport", "DiskImages", "Protection", "CLinux", "pvdisk",
  arguments,
]
let notHarnesses = ["CFuzzKernel", "CFuzzer", "Corpus", "ResponseStorm", "RingStorm", "StoreFuzz", "fuzz.sh"]
/// What libFuzzer is not told at once, or not at all: see CFuzzer.c.
let wrapped =
  ["8bit_counters_init", "pcs_init"] + [1, 2, 4, 8].flatMap { ["trace_cmp\($0)", "trace_const_cmp\($0)"] }
/// The harnesses as fuzzers, or as tests that run each corpus once.
let harnesses: Target =
  isFuzzing
  ? .executableTarget(
    name: "pvdisk-fuzz", dependencies: harnessImports + ["CFuzzer"], path: "Tests/Fuzz",
    exclude: notHarnesses + ["CorpusTests"], sources: ["Harnesses", "Fuzzer"], swiftSettings: covered,
    // gold cannot link what the sanitizers add; libFuzzer itself is C++; CFuzzer chooses which branches it sees.
    linkerSettings: [
      .unsafeFlags(
        [
          "-sanitize=fuzzer,address", "-use-ld=lld", "-Xlinker", "-lstdc++",
        ] + wrapped.flatMap { ["-Xlinker", "--wrap=__sanitizer_cov_" + $0] })
    ])
  : .testTarget(
    name: "FuzzTests", dependencies: harnessImports, path: "Tests/Fuzz", exclude: notHarnesses + ["Fuzzer"],
    sources: ["Harnesses", "CorpusTests"],
    swiftSettings: checked)

/// The command: a program, or, for the fuzzer that reads its command lines, a library whose `main` has another name.
let command: [Target] = {
  let imports: [Target.Dependency] = [
    "XenBackend", "XenFrontend", "XenPlatform", "BlockFront", "BlockBack", "PVMachine", "Figures", "Lab", "FuseExport",
    "DiskImages", "BlockIO", "XenStore", "XenBus", "SharedRing", "XenHypervisor", "XenWire", "CLinux", arguments,
    logging,
  ]
  let entry: [SwiftSetting] = [
    .unsafeFlags(["-Xfrontend", "-entry-point-function-name", "-Xfrontend", "pvdisk_main"])
  ]
  return isFuzzing
    ? [.target(name: "pvdisk", dependencies: imports, path: "Sources/pvdisk", swiftSettings: covered + entry)]
    : [.executableTarget(name: "pvdisk", dependencies: imports, path: "Sources/pvdisk", swiftSettings: checked)]
}()

let package = Package(
  name: "pvdisk",
  products: [
    .library(name: "PVMachine", targets: ["PVMachine"]),
    .library(name: "XenStore", targets: ["XenStore"]),
  ] + (isFuzzing ? [] : [.executable(name: "pvdisk", targets: ["pvdisk"])]),
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
  ],
  targets: [
    .target(name: "CLinux", path: "Sources/CLinux"),
    .systemLibrary(
      name: "CFuse3", path: "Sources/CFuse3", pkgConfig: "fuse3", providers: [.apt(["libfuse3-dev"])]),
    .target(name: "CUring", path: "Sources/CUring", linkerSettings: [.linkedLibrary("uring")]),

    module("XenWire", imports: ["CLinux"]),
    module("GuestMemory", imports: ["CLinux"]),
    module("BlockIO", imports: ["GuestMemory", "CLinux"]),
    module("Protection", imports: ["BlockIO", "GuestMemory", "CLinux"]),
    module("SharedRing", imports: ["XenWire", "GuestMemory", "CLinux"]),
    module("XenHypervisor", imports: ["XenWire", "GuestMemory", "CLinux"]),
    module("XenStore", imports: ["XenWire", "GuestMemory", "CLinux", collections]),
    module("XenBus", imports: ["XenStore", "XenWire"]),
    module(
      "BlockFront",
      imports: ["BlockIO", "XenBus", "XenStore", "SharedRing", "XenHypervisor", "XenWire", "GuestMemory", "Protection"]),
    module(
      "BlockBack",
      imports: [
        "BlockIO", "XenBus", "XenStore", "SharedRing", "XenHypervisor", "XenWire", "GuestMemory", "Protection",
        "CLinux",
      ]),
    module("DiskImages", imports: ["BlockIO", "GuestMemory", "CLinux", "CUring"]),
    module("FuseExport", imports: ["BlockIO", "GuestMemory", "CLinux", "CFuse3", "CUring"]),
    module(
      "PVMachine",
      imports: [
        "BlockFront", "BlockBack", "DiskImages", "FuseExport", "XenBus", "XenStore", "XenHypervisor", "SharedRing",
        "Protection", "XenWire", "BlockIO", "GuestMemory", "CLinux", logging,
      ]),
    module("Figures", imports: ["XenWire"]),
    module(
      "Lab",
      imports: [
        "PVMachine", "Figures", "Protection", "DiskImages", "BlockBack", "BlockIO", "SharedRing", "XenHypervisor",
        "XenBus", "XenWire", "GuestMemory", "CLinux",
      ]),
    .target(name: "CXen", path: "Sources/CXen", linkerSettings: [.linkedLibrary("dl")]),
    module("XenPlatform", imports: ["CXen", "XenHypervisor", "XenWire", "GuestMemory", "CLinux"]),
    module(
      "XenBackend",
      imports: [
        "XenPlatform", "PVMachine", "BlockBack", "DiskImages", "BlockIO", "XenBus", "XenStore", "XenHypervisor",
        "SharedRing", "XenWire", "GuestMemory", "CLinux",
      ]),
    module(
      "XenFrontend",
      imports: [
        "XenPlatform", "PVMachine", "BlockFront", "BlockIO", "XenBus", "XenStore", "XenHypervisor", "XenWire",
        "GuestMemory", "CLinux",
      ]),
    .target(name: "CAllocationCounter", path: "Tests/CAllocationCounter"),
    .target(name: "CSystemFaults", path: "Tests/CSystemFaults"),
    .target(name: "CSlowStart", path: "Tests/CSlowStart"),
    .target(name: "CFuzzKernel", path: "Tests/Fuzz/CFuzzKernel"),
    .target(
      name: "PVTestSupport",
      dependencies: ["BlockIO", "GuestMemory", "XenWire", "XenStore", "CLinux"],
      path: "Tests/PVTestSupport", swiftSettings: checked),
    .target(
      name: "XenRecords", path: "Tests/XenRecords", resources: [.copy("Resources")], swiftSettings: checked),
    .target(
      name: "PVPeers",
      dependencies: [
        "PVTestSupport", "BlockFront", "BlockBack", "BlockIO", "SharedRing", "XenHypervisor", "XenWire", "GuestMemory",
      ],
      path: "Tests/PVPeers", swiftSettings: checked),
    .target(
      name: "PVSimulation",
      dependencies: [
        "PVTestSupport", "BlockFront", "BlockBack", "BlockIO", "SharedRing", "XenBus", "XenStore", "XenHypervisor",
        "XenWire", "GuestMemory",
      ],
      path: "Tests/PVSimulation", swiftSettings: checked),
    .executableTarget(
      name: "simulate", dependencies: ["PVSimulation", "PVTestSupport", "SharedRing", arguments],
      path: "Tests/SimulationTool",
      swiftSettings: checked),
    tests("SimulationTests", imports: ["PVSimulation", "SharedRing"]),
    .testTarget(name: "DocumentTests", path: "Tests/DocumentTests", swiftSettings: checked),
    tests("GuestMemoryTests", imports: ["GuestMemory"]),
    tests("XenWireTests", imports: ["XenWire", "GuestMemory", "XenRecords"]),
    tests("SharedRingTests", imports: ["SharedRing", "XenWire", "GuestMemory", "CLinux", "XenRecords"]),
    tests("LabTests", imports: ["Lab", "Figures", "PVMachine", "XenWire"]),
    tests("ProtectionTests", imports: ["Protection", "BlockIO", "GuestMemory", "XenRecords", "CAllocationCounter"]),
    tests("FiguresTests", imports: ["Figures", "XenWire", "XenRecords"]),
    tests(
      "XenBusTests",
      imports: [
        "XenBus", "XenStore", "XenWire", "XenRecords", "PVMachine", "BlockBack", "BlockFront", "DiskImages", "BlockIO",
        "XenHypervisor",
      ]),
    tests(
      "BlockBackTests",
      imports: [
        "PVPeers", "BlockBack", "BlockIO", "SharedRing", "XenHypervisor", "XenWire", "GuestMemory", "XenRecords",
      ]
    ),
    tests(
      "BlockFrontTests",
      imports: ["PVPeers", "BlockFront", "BlockIO", "SharedRing", "XenHypervisor", "XenWire", "GuestMemory"]),
    .executableTarget(
      name: "bare-export", dependencies: ["FuseExport", "DiskImages", "BlockIO", "CLinux"],
      path: "Tests/Performance/BareExport", swiftSettings: checked),
    .executableTarget(
      name: "store-benchmark", dependencies: ["XenStore", "XenWire", "CLinux"],
      path: "Tests/Performance/StoreBenchmark", swiftSettings: checked),
    .executableTarget(
      name: "storm-benchmark",
      dependencies: [
        "PVMachine", "PVTestSupport", "BlockFront", "BlockIO", "XenBus", "XenHypervisor", "XenStore", "XenWire",
        "CLinux",
      ],
      path: "Tests/Performance/StormBenchmark", swiftSettings: checked),
    .executableTarget(
      name: "ring-fuzz", dependencies: ["PVPeers", "PVTestSupport", "CLinux"], path: "Tests/Fuzz/RingStorm",
      swiftSettings: checked),
    .executableTarget(
      name: "response-fuzz", dependencies: ["PVPeers", "PVTestSupport", "CLinux"], path: "Tests/Fuzz/ResponseStorm",
      swiftSettings: checked),
    .executableTarget(
      name: "store-fuzz", dependencies: ["PVTestSupport", "XenStore", "XenWire", "CLinux"],
      path: "Tests/Fuzz/StoreFuzz", swiftSettings: checked),
    tests(
      "PVMachineTests",
      imports: [
        "PVMachine", "BlockFront", "BlockBack", "DiskImages", "BlockIO", "XenBus", "XenStore", "XenHypervisor",
        "SharedRing", "XenWire", "Protection",
        "GuestMemory", "CAllocationCounter",
      ]),
    tests(
      "XenPlatformTests",
      imports: [
        "XenPlatform", "XenBackend", "XenFrontend", "BlockFront", "BlockBack", "BlockIO", "XenBus", "XenStore",
        "XenHypervisor", "XenWire", "GuestMemory", "CLinux",
      ]),
    tests(
      "XenStoreTests", imports: ["XenStore", "XenWire", "GuestMemory", "CLinux", "XenRecords", collections],
      resources: [.copy("StockPrograms")]),
    tests(
      "XenHypervisorTests",
      imports: ["XenHypervisor", "XenWire", "GuestMemory", "CLinux", "CAllocationCounter", "XenRecords"]),
    tests(
      "DiskImagesTests",
      imports: [
        "DiskImages", "BlockIO", "GuestMemory", "CLinux", "CUring", "CAllocationCounter",
        "CSystemFaults",
      ]),
    .testTarget(
      name: "EndToEndTests", dependencies: ["pvdisk", "CLinux"], path: "Tests/EndToEndTests", swiftSettings: checked),
    tests("FuseExportTests", imports: ["FuseExport", "BlockIO", "GuestMemory", "CLinux", "CSlowStart"]),
    harnesses,
  ] + (isFuzzing ? [.target(name: "CFuzzer", path: "Tests/Fuzz/CFuzzer")] : []) + command,
  swiftLanguageModes: [.v6]
)
