#!/usr/bin/env bash
# import-image.sh MARK <TAR: import the images of a tar into the containerd of this
# mount namespace, and note in the file MARK the name and digest of each.
set -euo pipefail
# shellcheck source=tests/bed/settings.sh
. "$(dirname "$(readlink -f "$0")")/../settings.sh"

mark=$1
mkdir -p "$(dirname "$mark")"
# ctr prints "unpacking NAME (DIGEST)...done".
ctr -a "$CONTAINERD_SOCKET" -n k8s.io images import - |
  sed -nE 's/^unpacking ([^ ]+) \(([^)]+)\).*/\1 \2/p' >"$mark.unfinished"
[[ -s $mark.unfinished ]] || die "no image in the tar"
mv "$mark.unfinished" "$mark"
