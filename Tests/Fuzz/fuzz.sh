#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Runs the fuzzers, each for some seconds, from the corpora in Tests/Fuzz/Corpus.
#
# usage: fuzz.sh SECONDS [TARGET...]    targets: ring response wire node fuse image command
# exit status: 0 nothing found, 5 something found: the input is kept in fuzz-findings/
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-60}
shift || true
targets=("$@")
((${#targets[@]} > 0)) || targets=(ring response wire node fuse image command)

# gold cannot link what the sanitizers add; libFuzzer itself is C++.
PVDISK_FUZZ=1 ${SWIFT:-swift} build -c release --scratch-path .build-fuzz --product pvdisk-fuzz \
  -Xswiftc -sanitize=fuzzer -Xswiftc -sanitize=address -Xswiftc -use-ld=lld -Xswiftc -enable-testing -Xlinker -lstdc++
mkdir -p fuzz-findings
status=0
for target in "${targets[@]}"; do
  grown=$(mktemp -d)
  log=$(mktemp)
  # A Swift trap prints its own backtrace otherwise, which takes minutes under the sanitizer.
  if PVDISK_FUZZ_TARGET=$target SWIFT_BACKTRACE=enable=no ASAN_OPTIONS=symbolize=0:detect_leaks=0 \
    .build-fuzz/release/pvdisk-fuzz -max_total_time="$seconds" -max_len=2048 -timeout=30 -rss_limit_mb=4096 \
    -artifact_prefix="fuzz-findings/$target-" -print_final_stats=1 "$grown" "Tests/Fuzz/Corpus/$target" > "$log" 2>&1; then
    echo "fuzz: $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs, nothing found"
  else
    echo "fuzz: $target: found something; again with PVDISK_FUZZ_TARGET=$target .build-fuzz/release/pvdisk-fuzz FILE" >&2
    tail -n 20 "$log" >&2
    status=5
  fi
  rm -rf "$grown" "$log"
done
rmdir fuzz-findings 2> /dev/null || true
exit $status
