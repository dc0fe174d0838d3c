#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Checks each Spin model exhaustively, and that each variant with a step taken out fails.
#
# usage: verify.sh [--deep]    --deep also runs larger rings, which takes a minute
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for tool in spin cc; do
  command -v "$tool" > /dev/null || { echo "models: there is no $tool; apt-get install spin gcc" >&2; exit 2; }
done

failures=0
# check MODEL holds|fails DEFINES...
check() {
  local model=$1 expected=$2 work
  shift 2
  work=$(mktemp -d "$scratch/XXXXXX")
  (cd "$work" && spin "${@/#/-D}" -a "$here/$model.pml" > spin.log && cc -O1 -w -DSAFETY -DMEMLIM=4096 -o pan pan.c) ||
    { echo "models: $model ${*} does not compile" >&2; exit 1; }
  (cd "$work" && ./pan -m1000000 > pan.log)
  local errors states found=fails
  errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' "$work/pan.log")
  states=$(sed -n 's/ *\([0-9]*\) states, stored.*/\1/p' "$work/pan.log")
  if [[ $errors == 0 ]] && ! grep -q "max search depth too small\|out of memory" "$work/pan.log"; then found=holds; fi
  if [[ $found == "$expected" ]]; then
    printf 'models: %-10s %-44s %s, %s states\n' "$model" "${*:-as it is}" "$found" "$states"
  else
    printf 'models: %-10s %-44s %s, but must not\n' "$model" "${*:-as it is}" "$found" >&2
    sed -n 1,12p "$work/pan.log" >&2
    failures=$((failures + 1))
  fi
}

check ring holds
check ring holds SIZE=4 TOTAL=6
for step in NO_FRONT_BARRIER NO_BACK_BARRIER NO_ARM_BARRIER NO_RECHECK NO_RELEASE NO_ROOM; do check ring fails "$step"; done
check grant holds
check grant holds V2
for step in CHECK_THEN_CLEAR MARK_GOES_FIRST MARK_GOES_ALONE; do check grant fails "$step"; done
for step in NO_V2_BARRIER MARK_AFTER_LOOK; do check grant fails V2 "$step"; done
check cache holds
for step in PURGE_ACTIVE SHARE_ACTIVE NO_LIMIT FAILURE_KEEPS; do check cache fails "$step"; done
check handshake holds
for step in STATE_BEFORE_RINGS NO_FIRST_EVENT EVENT_AFTER_LOOK NO_WAIT_FOR_CLOSED FRESH_CLOSES; do check handshake fails "$step"; done
if [[ ${1:-} == --deep ]]; then
  check ring holds SIZE=4 TOTAL=9
  check handshake holds RETURNS=6
fi
if ((failures > 0)); then echo "models: $failures of them are not as they should be" >&2; exit 5; fi
echo "models: all hold, and each step that is taken out is missed"
