#!/usr/bin/env bash
# Makes sure that Debian's packages for the tests are installed, or says plainly what is missing:
# GoogleTest, and qemu-user, which plays older processors (without it those tests are skipped).
# Called by `make test`.
set -euo pipefail

has_gtest() { [ -e /usr/include/gtest/gtest.h ] || [ -e /usr/local/include/gtest/gtest.h ]; }
has_emulator() { command -v qemu-x86_64 >/dev/null; }

has_gtest && has_emulator && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing what the tests need: libgtest-dev, qemu-user"
  apt-get update -qq || true
  for package in libgtest-dev qemu-user; do
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $package \
      >/dev/null || true
  done
fi
has_emulator || echo "qemu-user is missing: the tests of older processors are skipped" >&2
has_gtest || {
  echo "GoogleTest is missing, and this user cannot install it: sudo apt-get install libgtest-dev" >&2
  exit 1
}
