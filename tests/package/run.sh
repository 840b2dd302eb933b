#!/bin/bash
# Installs the build into a scratch prefix and uses it as strangers would: find_package, pkg-config,
# a program with a jemalloc of its own, dlopen() from C and from Python.
#
#   run.sh SOURCE_DIR BUILD_DIR CMAKE CC
set -euo pipefail
source=$1 build=$2 cmake=$3 cc=$4
prefix=$build/package-test/prefix
work=$build/package-test/build
rm -rf "$build/package-test"
mkdir -p "$work"

step() { printf -- '-- %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*"; exit 1; }

step installing
"$cmake" --install "$build" --prefix "$prefix" >"$work/install.log"
library=$(find "$prefix" -name 'libkvstow.so.0')
archive=$(find "$prefix" -name 'libkvstow.a')
for file in bin/kvstow share/man/man1/kvstow.1 include/kvstow/kvstow.h; do
  [ -e "$prefix/$file" ] || fail "$file is not installed"
done
"$prefix/bin/kvstow" --version | grep -q '^kvstow ' || fail "the installed command does not run"

step 'names'
strays=$(nm -D --defined-only "$library" | awk '$2 != "A" { print $3 }' |
  grep -v '^kvstow_[a-z]' || true)
[ -z "$strays" ] || fail "libkvstow.so exports $strays"
nm -D --defined-only "$library" | grep 'kvstow__' >/dev/null && fail 'libkvstow.so exports internals'
strays=$(nm -g --defined-only "$archive" | awk 'NF == 3 { print $3 }' |
  grep -vE '^kvstow_[a-z]' || true)
[ -z "$strays" ] || fail "libkvstow.a has global $strays"
readelf -d "$library" | grep 'SONAME.*libkvstow\.so\.0' >/dev/null || fail 'soname'
# Every function of the public headers is there. (Not a pipe into grep -q: it leaves early, and the pipe's
# writer dies of it.)
exported=$(nm -D --defined-only "$library")
missing=$(cat "$prefix"/include/kvstow/*.h | tr '\n' ' ' |
  grep -oE 'KVSTOW_API [a-z0-9_ ]+[ *]kvstow_[a-z0-9_]+\(' | grep -oE 'kvstow_[a-z0-9_]+\(' |
  tr -d '(' | sort -u | while read -r name; do
    grep -qE " T $name(@|$)" <<<"$exported" || echo "$name"
  done)
[ -z "$missing" ] || fail "declared, but not in the library: $missing"

step 'find_package'
"$cmake" -S "$source/tests/package" -B "$work/cmake" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" \
  -DCMAKE_C_COMPILER="$cc" -DKVSTOW_INCLUDE_DIR="$prefix/include" >"$work/configure.log" 2>&1 ||
  { cat "$work/configure.log"; fail 'a project can not find kvstow'; }
"$cmake" --build "$work/cmake" >"$work/build.log" 2>&1 ||
  { cat "$work/build.log"; fail 'a project can not build with kvstow'; }
for program in with_shared with_static with_static_and_jemalloc; do
  [ -x "$work/cmake/$program" ] || { step "$program: no libjemalloc here, left out"; continue; }
  # Settings for somebody's jemalloc, not for the one inside the library.
  conf=$([ $program = with_static_and_jemalloc ] || echo 'no_such_option:true')
  said=$(MALLOC_CONF=$conf "$work/cmake/$program" 2>&1) || fail "$program: $said"
  [ -z "$said" ] || fail "$program is not silent: $said"
done

step 'pkg-config'
export PKG_CONFIG_PATH
PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name kvstow.pc)")
read -ra flags <<<"$(pkg-config --cflags --libs kvstow)"
"$cc" -std=c11 "$source/tests/package/consumer.c" -o "$work/pc_shared" "${flags[@]}" -ldl
LD_LIBRARY_PATH=$(dirname "$library") "$work/pc_shared" || fail 'pkg-config, shared'
read -ra flags <<<"$(pkg-config --cflags --libs --static kvstow | sed "s|-lkvstow|$archive|")"
"$cc" -std=c11 "$source/tests/package/consumer.c" -o "$work/pc_static" "${flags[@]}" -ldl
"$work/pc_static" || fail 'pkg-config, static'
for example in "$source"/examples/*.c; do
  read -ra flags <<<"$(pkg-config --cflags --libs kvstow)"
  "$cc" "$example" -o "$work/$(basename "$example" .c)" "${flags[@]}" || fail "$example"
done
(cd "$work" && LD_LIBRARY_PATH=$(dirname "$library") ./minimal) || fail 'examples/minimal.c'

step 'dlopen'
if readelf -d "$library" | grep -q STATIC_TLS; then
  step "with the packaged jemalloc libkvstow.so can't be loaded late; see docs/decisions.md"
else
  others=()
  for other in libgomp.so.1 libstdc++.so.6; do
    ldconfig -p | grep -q "$other" && others+=("$other")
  done
  "$work/cmake/plugin_host" "$library" || fail 'dlopen'
  "$work/cmake/plugin_host" "$library" "${others[@]}" || fail 'dlopen after other libraries'
  if command -v python3 >/dev/null; then
    python3 - "$library" <<'PYTHON' || fail 'ctypes'
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.kvstow_version.restype = ctypes.c_char_p
assert library.kvstow_version().startswith(b"0."), library.kvstow_version()
PYTHON
  fi
fi
rm -rf "$build/package-test"
step ok
