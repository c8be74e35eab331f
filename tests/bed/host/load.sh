#!/usr/bin/env bash
# load.sh TAR...: import images (docker-archive) on all running nodes at once. What
# a node has already is skipped: it remembers which images came from a tar of the
# same sha256, and imports again if one was removed or is another one now.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/bed/settings.sh
. "$here/../settings.sh"
# shellcheck source=tests/bed/cgroups.sh
. "$here/../cgroups.sh"
# shellcheck source=tests/bed/namespaces.sh
. "$here/../namespaces.sh"

load_on_node() {
  local n=$1 marks=$RUN/node-$1/images present tar sum left=300
  until present=$(in_node "$n" ctr -a "$CONTAINERD_SOCKET" -n k8s.io images list 2>/dev/null); do
    ((left--)) || die "node-$n: containerd does not answer, see $RUN/node-$n/logs/containerd.log"
    sleep 0.1
  done
  # "NAME DIGEST" of each image, the form of the marks.
  present=$(awk 'NR > 1 { print $1, $3 }' <<<"$present")
  for tar in "${tars[@]}"; do
    sum=${sums[$tar]}
    if [[ -s $marks/$sum ]] && ! grep -qvxF "$present" "$marks/$sum"; then continue; fi
    in_node "$n" "$BED_SOURCE/inside/import-image.sh" "$marks/$sum" <"$tar" || die "node-$n: importing $tar failed"
  done
}

tars=("$@")
declare -A sums
for tar in "${tars[@]}"; do
  [[ -r $tar ]] || die "no such image tar: $tar"
  sums[$tar]=$(sha256sum <"$tar" | cut -d' ' -f1)
done

nodes=$(bed_nodes) || die "bed '$BED' is not up"
loaders=()
for ((n = 0; n < nodes; n++)); do
  # A node that a test has killed gets its images when `up` starts it.
  cgroup_init "$CGROUP/node-$n/daemons" >/dev/null || { say "node-$n is not running: skipped" && continue; }
  load_on_node "$n" &
  loaders+=("$!")
done
status=0
for loader in "${loaders[@]}"; do wait "$loader" || status=1; done
exit "$status"
