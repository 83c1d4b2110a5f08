#!/usr/bin/env bash
# Makes sure that GoogleTest is installed, or says plainly what is missing. Called by `make test`.
set -euo pipefail

present() { [ -e /usr/include/gtest/gtest.h ] || [ -e /usr/local/include/gtest/gtest.h ]; }

present && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "GoogleTest is missing; installing libgtest-dev"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libgtest-dev >/dev/null
fi
present || {
  echo "GoogleTest is missing, and this user cannot install it: sudo apt-get install libgtest-dev" >&2
  exit 1
}
