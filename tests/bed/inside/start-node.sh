#!/usr/bin/env bash
# start-node.sh N NODES: run in the control plane's namespaces: start node N, for
# the first time or again. What it had on disk lies in $RUN/node-N.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/bed/settings.sh
. "$here/../settings.sh"
# shellcheck source=tests/bed/cgroups.sh
. "$here/../cgroups.sh"

name=node-$1
# Pod cgroups of an earlier life would make the kubelet wait 3 s for each.
cgroup_remove "$CGROUP/$name"
cgroup_make "$CGROUP/$name/daemons"
cgroup_join "$CGROUP/$name/daemons"

# A named network namespace, so that the link is there before the node is.
"$here/unplug-node.sh" "$1"
ip netns add "$name"
ip link add "$name" type veth peer name eth0 netns "$name"
ip link set "$name" master bed0 up

mkdir -p "$RUN/$name/logs"
setsid nsenter --net="/run/netns/$name" unshare --mount --pid --uts --ipc --fork --mount-proc \
  bash "$here/node.sh" "$@" >>"$RUN/$name/logs/node.log" 2>&1 </dev/null &
