#!/usr/bin/env bash
# build.sh: build every program of the bed that is not in the cache yet. Two
# modules at a time, so that one links or downloads while the other compiles;
# Kubernetes, by far the longest, is started first.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/bed/settings.sh
. "$here/../settings.sh"

command -v go >/dev/null || die "go is needed to build the bed's programs (1.26 or newer, https://go.dev/dl)"
started=$SECONDS
printf '%s\n' "${BED_MODULES[@]}" | xargs -P 2 -n 1 "$here/build-module.sh" ||
  die "a build failed; the next call goes on from here"
for module in "${BED_OPTIONAL_MODULES[@]}"; do
  "$here/build-module.sh" "$module" || say "going on without $module: no node has its image"
done
((SECONDS - started < 2)) || say "all programs built in $((SECONDS - started)) s"
