#!/usr/bin/env bash
# seed.sh TAR...: a containerd data directory with these images in it, made once
# and kept in the cache; prints its path. A new node starts on a copy: unpacking
# the same images on each node is most of the work of a start.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/bed/settings.sh
. "$here/../settings.sh"

key=$({ containerd --version && cat "$here/seed.sh" "$BED_SOURCE"/inside/{seed,import-image}.sh && echo "$@"; } | sha256sum | cut -c1-12)
seed=$BED_IMAGE_TARS/seed-$key
exec 9>"$BED_IMAGE_TARS/.seed.lock"
flock 9
if [[ ! -e $seed ]]; then
  say "unpacking the images"
  rm -rf "$seed.unfinished"
  mkdir "$seed.unfinished"
  unshare --mount --net --pid --fork --mount-proc "$BED_SOURCE/inside/seed.sh" "$seed.unfinished" "$@" \
    9>&- >"$seed.log" 2>&1 || { tail -n 20 "$seed.log" >&2 && die "unpacking the images failed"; }
  mv -T "$seed.unfinished" "$seed"
  rm -f "$seed.log"
fi
echo "$seed"
