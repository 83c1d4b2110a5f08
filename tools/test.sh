#!/usr/bin/env bash
# Runs every test, C++ and Python, in every mode that must not change a result. Called by `make test`
# after the build; stops at the first failure.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
binaries=build/cmake

# What inductor compiles in the first run serves the others, and no later `make test`.
TORCHINDUCTOR_CACHE_DIR=$(mktemp -d)
export TORCHINDUCTOR_CACHE_DIR
trap 'rm -rf "$TORCHINDUCTOR_CACHE_DIR"' EXIT

section() { printf '\n== %s\n' "$*"; }

read -r -a isas <<<"$($python -m torch_accel isas)"
best=${isas[-1]}

section "no instruction set leaks out of its namespace"
$python tools/check_isa.py $binaries

section "docs/op_coverage.md says what runs"
$python tools/op_coverage.py --check

for isa in "${isas[@]}"; do
  for tests in kernel_tests csrc_tests; do
    [ -x "$binaries/$tests" ] || continue
    section "$tests, ACCEL_ISA=$isa"
    ACCEL_ISA=$isa "$binaries/$tests" --gtest_brief=1
  done
done

section "pytest, ACCEL_ISA=$best"
$python -m pytest -q -m "not database" tests/python

# The same programs, where a broken contract would show: one Node per Segment, memory that the host
# must not touch, and the lower instruction sets.
core=(-q -m "not slow and not database" tests/python)
section "pytest, ACCEL_FUSION=0"
ACCEL_FUSION=0 $python -m pytest "${core[@]}"
section "pytest, ACCEL_MEMORY=guarded"
ACCEL_MEMORY=guarded $python -m pytest "${core[@]}"
for isa in "${isas[@]}"; do
  [ "$isa" = "$best" ] && continue
  section "pytest, ACCEL_ISA=$isa"
  ACCEL_ISA=$isa $python -m pytest "${core[@]}"
done
