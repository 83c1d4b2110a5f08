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

section() { printf '\n== %d:%02d  %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"; }

# side_by_side NAME=VALUE... -- PYTEST_ARGUMENTS...: one process a core, one thread each, since most
# tests are small. Processes that are each as wide as the machine are slower together than in turn.
side_by_side() {
  local settings=()
  while [ "$1" != -- ]; do settings+=("$1") && shift; done && shift
  env "${settings[@]}" OMP_NUM_THREADS=1 $python -m pytest -q -n auto "$@"
}

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

database=tests/python/test_operator_database.py
tests=(--ignore=tests/python/distributed --ignore=$database tests/python)

# With all threads, one after the other; what takes long is one process a core.
section "pytest, ACCEL_ISA=$best"
$python -m pytest -q -m "not slow" "${tests[@]}"
section "pytest, slow tests"
side_by_side -- -m "slow and not alone" "${tests[@]}"
$python -m pytest -q -m "slow and alone" "${tests[@]}"

section "pytest, distributed" # ranks are processes of their own
$python -m pytest -q tests/python/distributed

# As recorded; `make test-database-compiled` runs it through torch.compile too. Only where the host
# must not touch the memory: what works there works in plain memory, which `make test-database` and
# all that is above use.
section "PyTorch's operator database, ACCEL_MEMORY=guarded"
side_by_side ACCEL_FALLBACK=quiet ACCEL_MEMORY=guarded -- -m database -k "not compiled-" $database

# The same programs, where a broken contract would show: one Node per Segment, memory that the host
# must not touch, and other instruction sets. avx512_bf16 differs from avx512 in products of bf16 only.
modes=(ACCEL_FUSION=0 ACCEL_MEMORY=guarded)
for isa in "${isas[@]}"; do
  case $best/$isa in
    "$isa/$isa") ;;
    */avx512_bf16 | avx512_bf16/avx512)
      section "pytest, products, ACCEL_ISA=$isa"
      side_by_side "ACCEL_ISA=$isa" -- -m "not alone" -k "float16 or autocast" "${tests[@]}"
      ;;
    *) modes+=("ACCEL_ISA=$isa") ;;
  esac
done
for mode in "${modes[@]}"; do
  section "pytest, $mode"
  side_by_side "$mode" -- -m "not slow and not alone" "${tests[@]}"
  env "$mode" $python -m pytest -q -m "alone and not slow" "${tests[@]}"
done
