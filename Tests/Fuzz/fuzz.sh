#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Runs the fuzzers one after the other, from the corpora in Tests/Fuzz/Corpus.
#
# usage: fuzz.sh [TARGET...]      targets: ring response wire node fuse image command
# environment:
#   FUZZ=SECONDS   how long each runs (60)
#   RUNS=N         how many inputs each runs, instead
#   SEED=N         libFuzzer's seed (another one each time)
#   GROW=1         adds what was found to the corpora, which stay minimal
# exit status: 0 nothing found, 5 something found: the input is kept in fuzz-findings/
set -euo pipefail
cd "$(dirname "$0")/../.."
targets=("$@")
((${#targets[@]} > 0)) || targets=(ring response wire node fuse image command)
# Longer inputs say the same again.
declare -A length=([ring]=64 [response]=64 [wire]=96 [node]=96 [fuse]=96 [image]=64 [command]=96)
# Neighbours that follow each of libFuzzer's inputs (KeptHarness). How often a branch was taken is of use only without them.
neighbours=15
counters=0
if [[ -n ${GROW:-} ]]; then
  neighbours=0
  counters=1
fi
limit=-max_total_time=${FUZZ:-60}
[[ -z ${RUNS:-} ]] || limit=-runs=$(((RUNS + neighbours) / (neighbours + 1)))

PVDISK_FUZZ=1 ${SWIFT:-swift} build -c release --scratch-path .build-fuzz --product pvdisk-fuzz -Xswiftc -enable-testing
mkdir -p fuzz-findings
fuzzer() {
  # A Swift trap prints its own backtrace otherwise, which takes minutes under the sanitizer. Most of the sanitizer's time would
  # go into noting who took which memory, and into keeping what was given back: a report for a file tells that better when it
  # is made with the defaults.
  PVDISK_FUZZ_TARGET=$target PVDISK_FUZZ_NEIGHBOURS=$neighbours SWIFT_BACKTRACE=enable=no \
    ASAN_OPTIONS=symbolize=0:detect_leaks=0:malloc_context_size=1:quarantine_size_mb=1:thread_local_quarantine_size_kb=64:detect_stack_use_after_return=0:max_malloc_fill_size=0 \
    .build-fuzz/release/pvdisk-fuzz -detect_leaks=0 -timeout=1200 -rss_limit_mb=4096 -max_len="${length[$target]}" \
    -use_counters=$counters -reload=0 -artifact_prefix="fuzz-findings/$target-" "$@"
}
status=0
for target in "${targets[@]}"; do
  corpus=Tests/Fuzz/Corpus/$target
  grown=$(mktemp -d)
  log=fuzz-findings/$target.log
  if fuzzer "$limit" -seed="${SEED:-0}" -print_final_stats=1 "$grown" "$corpus" > "$log" 2>&1; then
    awk -v target="$target" '
      /^INFO: Seed:/ { seed = $3 }
      / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") edges = $(i + 1) }
      /^Done/ { seconds = $5 }
      / inputs were run$/ { runs = $2 }
      END { printf "fuzz: %s: %s inputs in %s s, seed %s, %s branches seen, nothing found\n", target, runs, seconds, seed, edges }
    ' "$log"
    rm "$log"
    if [[ -n ${GROW:-} ]]; then
      merged=$(mktemp -d)
      fuzzer -merge=1 "$merged" "$corpus" "$grown" > /dev/null 2>&1
      rm -f "$corpus"/*
      cp "$merged"/* "$corpus"
      rm -rf "$merged"
    fi
  else
    echo "fuzz: $target: found something; again with PVDISK_FUZZ_TARGET=$target PVDISK_FUZZ_NEIGHBOURS=$neighbours .build-fuzz/release/pvdisk-fuzz FILE" >&2
    tail -n 20 "$log" >&2
    status=5
  fi
  rm -rf "$grown"
done
rmdir fuzz-findings 2> /dev/null || true
exit $status
