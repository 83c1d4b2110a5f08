#!/usr/bin/env bash
# Builds the C++ tests with sanitizers in a directory of their own and runs them.
#   tools/sanitize.sh address,undefined build/asan
#   tools/sanitize.sh thread build/tsan
set -euo pipefail
cd "$(dirname "$0")/.."
sanitizers=$1
directory=$2
python=.venv/bin/python
export TORCH_DEVICE_BACKEND_AUTOLOAD=0

tools/ensure_test_packages.sh
cmake -S . -B "$directory" -G Ninja \
  -DCMAKE_MAKE_PROGRAM="$PWD/.venv/bin/ninja" \
  -DPython_EXECUTABLE="$PWD/$python" \
  -Dpybind11_DIR="$($python -m pybind11 --cmakedir)" \
  -DACCEL_BUILD_TESTS=ON -DACCEL_SANITIZE="$sanitizers"
cmake --build "$directory" --target kernel_tests csrc_tests

# LibTorch keeps some objects until the process ends, and its libgomp is not instrumented: see the
# suppressions.
# Frames that outlive their call are not looked for: g++ 12 aligns what stands in for them less than
# the vectors of AVX-512 that lie in them.
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=0}
export LSAN_OPTIONS=${LSAN_OPTIONS:-suppressions=$PWD/tools/lsan.supp:print_suppressions=0}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-suppressions=$PWD/tools/tsan.supp:ignore_noninstrumented_modules=1:halt_on_error=1:history_size=4}
for tests in kernel_tests csrc_tests; do
  echo "== $tests, $sanitizers"
  "$directory/$tests" --gtest_brief=1
done
