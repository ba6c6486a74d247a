#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds the halves of the addon without Node-API and their test program with sanitizers, and runs it.
# Usage: run.sh [address,undefined | thread]
set -eu
sanitizers=${1:-address,undefined}
here=$(cd "$(dirname "$0")" && pwd)
out=$here/../build/test-$sanitizers
mkdir -p "$out"
flags="-std=c++20 -O0 -g1 -D_GNU_SOURCE -Wall -Wextra -Werror -fno-omit-frame-pointer -fsanitize=$sanitizers"
libraries=-pthread
if pkg-config --atleast-version=2.2 liburing; then
  flags="$flags -DPLOOP_HAVE_URING"
  libraries="$libraries $(sh "$here/../src/liburing-archive.sh")"
fi
sources=
for source in "$here"/*.cc "$here"/../src/*.cc; do
  case $source in */addon.cc | *_binding.cc) continue ;; esac
  sources="$sources $source"
done
newest=$(ls -t "$here"/*.cc "$here"/*.h "$here"/../src/*.cc "$here"/../src/*.h | head -n 1)
if [ ! -x "$out/native-test" ] || [ "$newest" -nt "$out/native-test" ]; then
  # shellcheck disable=SC2086 # lists of words
  printf '%s\n' $sources | (cd "$out" && xargs -P 2 -n 3 g++ $flags -c)
  # shellcheck disable=SC2086
  g++ $flags "$out"/*.o $libraries -o "$out/native-test.$$"
  mv "$out/native-test.$$" "$out/native-test"
fi
exec "$out/native-test"
