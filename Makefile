# The two commands: `make run` shows it, `make test` checks it. Both install what a fresh Debian 12 with a Swift 6.3
# toolchain lacks, asking for nothing.
SHELL := /bin/bash
SWIFT ?= swift
RELEASE := .build/release/pvdisk

.PHONY: transports matrix run test bench bench-ring bench-store bench-storm store-clients count soak fuzz-store fuzz-ring fuzz-response deaths real-xen compare-xenstored hostile reliability reclaim verify-models build release check format install uninstall clean fuzz asan tsan

run: ## mount an image, make a filesystem on it, use it, check it
	@.ci/setup run
	@$(SWIFT) build -c release --product pvdisk
	@images/demo.sh $(RELEASE)

test: ## the whole suite
	@.ci/setup test
	@.ci/arrows
	@.ci/tables
	@$(SWIFT) build --build-tests
	@.ci/suite $(SWIFT)

build:
	@.ci/setup run
	@$(SWIFT) build

release:
	@.ci/setup run
	@$(SWIFT) build -c release --product pvdisk

check: ## formatting and import arrows
	@.ci/format
	@.ci/arrows
	@.ci/tables

format: ## puts the sources in order
	@$(SWIFT) format -i -r Sources Tests Package.swift

bench: ## against a C passthrough, qemu-storage-daemon, nbdfuse and the raw file
	@.ci/setup bench
	@$(SWIFT) build -c release --product pvdisk
	@$(SWIFT) build -c release --product bare-export
	@python3 Tests/Performance/bench.py --pvdisk $(RELEASE) --bare .build/release/bare-export \
	  --json bench-results/bench.json $(BENCH)

bench-ring: ## the stack in process, without FUSE
	@.ci/setup run
	@$(SWIFT) build -c release --product pvdisk
	@$(RELEASE) bench $(BENCH)

bench-store: ## the XenStore through its socket beside a bare echo, and in process
	@$(SWIFT) build -c release --product store-benchmark
	@.build/release/store-benchmark $(BENCH)

bench-storm: ## a disk beside a hostile domain's storms of events, states and watches: BENCH="seconds rounds events-a-second"
	@$(SWIFT) build -c release --product storm-benchmark
	@.build/release/storm-benchmark $(BENCH)

store-clients: ## a Python client from the package index against the XenStore (needs the network once)
	@.ci/setup test
	@$(SWIFT) build -c release --product pvdisk
	@python3 -m venv .build/clients && .build/clients/bin/pip -q install pyxs==0.4.1
	@rm -rf .build/clients/run && mkdir .build/clients/run && \
	  $(RELEASE) xenstored --daemonize --pid-file .build/clients/run/pid --socket .build/clients/run/xs && \
	  { timeout 60 .build/clients/bin/python Tests/XenStoreTests/StockPrograms/stock.py .build/clients/run/xs; \
	    status=$$?; kill $$(cat .build/clients/run/pid); exit $$status; }

fuzz-store: ## hostile messages against the XenStore, in a release build: FUZZ=100000000 as many as one likes
	@$(SWIFT) build -c release --product store-fuzz
	@.build/release/store-fuzz $(or $(FUZZ),100000000)

# Some tests reach into modules and plant bugs, which a release build has none of.
TESTABLE := --scratch-path .build-matrix -Xswiftc -enable-testing -Xswiftc -DDEBUG

fuzz-ring: ## hostile frontends against a backend, in a release build: FUZZ=100000000 requests, as many as one likes
	@$(SWIFT) build -c release --product ring-fuzz
	@.build/release/ring-fuzz $(or $(FUZZ),100000000)

fuzz-response: ## hostile backends against a frontend, in a release build: FUZZ=10000000 responses, as many as one likes
	@$(SWIFT) build -c release --product response-fuzz
	@.build/release/response-fuzz $(or $(FUZZ),10000000)

matrix: ## every way in which two ends can be connected, 10 000 connections, and 10 000 events under I/O, in a release build
	@.ci/setup test
	@PVDISK_MATRIX=1 $(SWIFT) test -c release $(TESTABLE) --filter MatrixTests
	@PVDISK_MATRIX=1 $(SWIFT) test -c release $(TESTABLE) --skip-build --filter CycleTests

count: ## instructions of one request, by callgrind, against a ceiling
	@.ci/setup test
	@$(SWIFT) build -c release --product pvdisk
	@python3 Tests/Performance/instructions.py --pvdisk $(RELEASE)

transports: ## the end-to-end tests over every transport that the kernel offers, in every placement
	@.ci/setup test
	@$(SWIFT) build --build-tests
	@offered=dev; grep -q Y /sys/module/fuse/parameters/enable_uring 2> /dev/null && offered="dev uring" || \
	  echo "transports: io_uring is switched off and left out ('pvdisk doctor' says how to switch it on)"; \
	for transport in $$offered; do for placement in inline threads; do \
	  echo "transports: $$transport, $$placement"; \
	  PVDISK_FUSE_TRANSPORT=$$transport PVDISK_PLACEMENT=$$placement .ci/suite $(SWIFT) --filter EndToEndTests || exit; \
	done; done

soak: ## fio verification and random operations beside an oracle, on every transport and placement: SOAK="--hours 1"
	@.ci/setup test
	@$(SWIFT) build -c release --product pvdisk
	@python3 Tests/Performance/soak.py --pvdisk $(RELEASE) $(SOAK)

hostile: ## the XenStore's long tests, twenty times as long, in a release build
	@.ci/setup test
	@PVDISK_TEST_SCALE=20 $(SWIFT) test -c release $(TESTABLE) --filter XenStoreTests

fuzz: ## libFuzzer with the address sanitizer: FUZZ=600 seconds for each fuzzer, or RUNS=100000000 inputs; TARGETS="ring wire"
	@.ci/setup run
	@FUZZ=$(FUZZ) RUNS=$(RUNS) SEED=$(SEED) GROW=$(GROW) Tests/Fuzz/fuzz.sh $(TARGETS)

asan: ## the suite under the address sanitizer, the C parts under that of undefined behaviour too: TESTS="--filter ..."
	@.ci/setup test
	@SWIFT=$(SWIFT) .ci/sanitize address $(TESTS)

tsan: ## the suite under the thread sanitizer: TESTS="--filter ..."
	@.ci/setup test
	@SWIFT=$(SWIFT) .ci/sanitize thread $(TESTS)

SEEDS ?= 100000
KILLS ?= 1000
reliability: ## simulated machines from 100 000 seeds, 10^8 ring requests, 1 000 kills, 200 deaths (SEEDS=n KILLS=n DEATHS=n for fewer)
	@.ci/setup test
	@$(SWIFT) build -c release --product simulate
	@$(SWIFT) build -c release --product pvdisk
	@.build/release/simulate --seeds $(SEEDS) --requests 1000
	@python3 Tests/Crash/kill.py --pvdisk $(RELEASE) --kills $(KILLS)
	@python3 Tests/Crash/death.py --pvdisk $(RELEASE) --cycles $(or $(DEATHS),200)

deaths: ## 200 ends of a disk with 64 calls in flight: killed, aborted, unmounted lazily, its caller killed; needs root
	@.ci/setup test
	@$(SWIFT) build -c release --product pvdisk
	@python3 Tests/Crash/death.py --pvdisk $(RELEASE) --cycles $(or $(DEATHS),200)

reclaim: ## ext4 on a loop device on a mounted disk, in a memory cgroup that is too small: RECLAIM="--seconds 600"
	@.ci/setup test
	@$(SWIFT) build -c release --product pvdisk
	@python3 Tests/Crash/reclaim.py --pvdisk $(RELEASE) $(RECLAIM)

verify-models: ## the Spin models, and each of them with a step taken out
	@.ci/setup models
	@Tests/Models/verify.sh $(MODELS)

PREFIX ?= /usr/local

install: release ## the command, and what mount(8) calls for type fuse.pvdisk
	install -D -m 755 $(RELEASE) $(DESTDIR)$(PREFIX)/bin/pvdisk
	install -d $(DESTDIR)/sbin
	ln -sf $(PREFIX)/bin/pvdisk $(DESTDIR)/sbin/mount.fuse.pvdisk

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/pvdisk $(DESTDIR)/sbin/mount.fuse.pvdisk

compare-xenstored: ## random requests to Debian's xenstored, run without Xen, and to ours: equal replies and events
	@$(SWIFT) build -c release --product pvdisk
	@python3 Tests/RealXenStored/compare.py $(RELEASE) $(or $(STEPS),5000) $(or $(SEED),1)

real-xen: ## Linux's own blkfront, in a guest of a real Xen under QEMU's emulation, on 'pvdisk backend'
	@.ci/setup real-xen
	@$(SWIFT) build -c release --product pvdisk
	@Tests/RealXen/run $(RELEASE) .build/real-xen $(XEN)

clean:
	@rm -rf .build .build-* bench-results
