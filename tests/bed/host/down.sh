#!/usr/bin/env bash
# down.sh: take the bed down, whatever state it is in, and leave nothing of it.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/bed/settings.sh
. "$here/../settings.sh"
# shellcheck source=tests/bed/cgroups.sh
. "$here/../cgroups.sh"

# A frozen process does not die.
for n in {0..6}; do cgroup_thaw "$CGROUP/node-$n"; done

# With pid 1 of the control plane everything in its pid namespace dies, the nodes
# in it too, and then nothing holds the mounts and the network any more. The rest
# of the cgroups' processes follow in case of a start that did not get that far.
if init=$(cgroup_init "$CGROUP/control-plane"); then kill -KILL "$init" 2>/dev/null || true; fi
left=200
while processes=$(cgroup_processes "$CGROUP") && [[ -n $processes ]]; do
  ((left--)) || die "processes of bed '$BED' do not end: ${processes//$'\n'/ }"
  # shellcheck disable=SC2086  # one word per process
  ((left > 180)) || kill -KILL $processes 2>/dev/null || true
  sleep 0.05
done
cgroup_remove "$CGROUP"
rm -rf --one-file-system "$RUN"
