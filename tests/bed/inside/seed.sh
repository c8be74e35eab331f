#!/usr/bin/env bash
# seed.sh DIRECTORY TAR...: pid 1 of a namespace made for this: import the tars into
# a containerd whose data directory is DIRECTORY/containerd.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/bed/settings.sh
. "$here/../settings.sh"

directory=$1
shift
mount -t tmpfs -o mode=755 tmpfs /run
cat >"$directory/containerd.toml" <<EOF
version = 2
root = "$directory/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$CONTAINERD_SOCKET"
EOF
containerd --config "$directory/containerd.toml" &
daemon=$!
until [[ -S $CONTAINERD_SOCKET ]]; do
  kill -0 "$daemon"
  sleep 0.05
done
for tar in "$@"; do
  "$here/import-image.sh" "$directory/images/$(sha256sum <"$tar" | cut -d' ' -f1)" <"$tar"
done
kill "$daemon"
wait "$daemon" || true
