#!/usr/bin/env bash
# build-module.sh MODULE: build the programs of modules/MODULE into the cache,
# unless they are there. Several callers may ask for the same at once: one
# builds, the others wait. An interrupted build leaves only a temporary
# directory, which the next call removes.
set -euo pipefail
# shellcheck source=tests/bed/settings.sh
. "$(dirname "$(readlink -f "$0")")/../settings.sh"

module=$1
target=$(program_dir "$module")
[[ ! -e $target ]] || exit 0

mkdir -p "$BED_PROGRAMS"
exec 9>"$BED_PROGRAMS/.$module.lock"
flock -n 9 || { say "another call is building $module: waiting for it" && flock 9; }
[[ ! -e $target ]] || exit 0

unfinished=$target.unfinished
rm -rf "$unfinished"
mkdir "$unfinished"

# The committed go.mod and go.sum decide what is built, nothing of the machine:
# no other toolchain, no workspace, no flags, no C compiler.
export GOFLAGS='-mod=readonly -trimpath -buildvcs=false' GOWORK=off GOTOOLCHAIN=local CGO_ENABLED=0

say "building $module ..."
started=$SECONDS
cd "$BED_SOURCE/modules/$module"
# Each module's `build` says what to build; it gets the directory to build into.
if ! bash -euo pipefail -c '. "$0/settings.sh"; . ./build' "$BED_SOURCE" "$unfinished" 9>&- 2>"$unfinished.log"; then
  tail -n 30 "$unfinished.log" >&2
  die "building $module failed"
fi
rm -f "$unfinished.log"
mv -T "$unfinished" "$target"
say "built $module in $((SECONDS - started)) s"
