#!/usr/bin/env bash
# up.sh: build what is missing, start the bed, load the images, and return when
# pods can be made. A bed that is up already is kept if it is what is asked for;
# anything else that is found (another number of nodes, half a start, a crash) is
# taken down first. The caller holds the bed's lock.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/bed/settings.sh
. "$here/../settings.sh"
# shellcheck source=tests/bed/cgroups.sh
. "$here/../cgroups.sh"
# shellcheck source=tests/bed/namespaces.sh
. "$here/../namespaces.sh"

[[ $(id -u) == 0 ]] || die "the bed makes namespaces, mounts and control groups: run it as root (sudo -E)"
case $BED_CACHE in
/run/* | /proc/* | /sys/* | /var/local/* | /var/lib/kubelet/* | /var/log/pods/*) die "the cache cannot be in $BED_CACHE: nodes have their own; set XDG_CACHE_HOME" ;;
esac

"$here/packages.sh"
"$here/build.sh"
mapfile -t tars < <("$here/images.sh")
((${#tars[@]})) || die "building the images failed"
seed=$("$here/seed.sh" "${tars[@]}")
# shellcheck disable=SC2206  # BED_IMAGES is a list separated by spaces
tars+=(${BED_IMAGES:-})

started=$(date +%s%N)
kubectl() { in_control_plane "$(program_dir kubernetes)/kubectl" --kubeconfig="$RUN/admin.kubeconfig" --request-timeout=5s "$@"; }

# What a running bed was made from. Without NODES a running bed keeps its number.
running_nodes=$(bed_nodes || true)
nodes=${NODES:-${running_nodes:-3}}
[[ $nodes =~ ^[1-7]$ ]] || die "NODES='$nodes': 1 to 7"
made_from=$(
  echo "nodes=$nodes"
  for module in kubernetes coredns etcd-3.6; do program_dir "$module"; done
  cat "$BED_SOURCE"/inside/*.sh "$BED_SOURCE"/config/* "$BED_SOURCE"/{settings,cgroups}.sh "$here/pki.sh" | sha256sum
)

start() {
  local n groups=("$CGROUP/control-plane")
  mkdir -p "$LOGS"
  "$here/pki.sh" "$nodes"
  # Commands that are entered also find pods and services by short names.
  echo "nameserver $CONTROL_PLANE_IP" >"$RUN/pod-resolv.conf"
  printf 'nameserver %s\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n' "$CONTROL_PLANE_IP" >"$RUN/resolv.conf"
  echo "$nodes" >"$RUN/nodes"
  for ((n = 0; n < nodes; n++)); do
    "$here/plant-seed.sh" "$seed" "$RUN/node-$n"
    groups+=("$CGROUP/node-$n/daemons")
  done
  cgroup_make "${groups[@]}"
  (
    exec 9>&- >>"$LOGS/control-plane.log" 2>&1 </dev/null # 9: the lock is not the bed's
    cgroup_join "$CGROUP/control-plane"
    exec setsid unshare --net --mount --pid --uts --ipc --fork --mount-proc bash "$BED_SOURCE/inside/control-plane.sh" "$nodes"
  ) &
}

# await SECONDS WHAT LOGS... -- CHECK...: wait until CHECK succeeds. If it does
# not, show the end of the logs that say why, take the bed down, keep the logs.
await() {
  local until=$((SECONDS + $1)) what=$2 said log logs=() kept=$BED_CACHE/run/$BED.failed
  shift 2
  while [[ $1 != -- ]]; do logs+=("$1") && shift; done
  shift
  until said=$("$@" 2>&1); do
    if ((SECONDS >= until)); then
      for log in "${logs[@]}"; do
        [[ ! -s $log ]] || printf -- '--- %s\n%s\n' "${log#"$RUN/"}" "$(tail -n 15 "$log" | cut -c1-400)" >&2
      done
      printf -- '--- last check: %s\n%s\n' "$1" "$said" >&2
      rm -rf "$kept" && mkdir "$kept"
      cp -r "$LOGS" "$kept/control-plane"
      for log in "$RUN"/node-*/logs; do [[ ! -d $log ]] || cp -r "$log" "$kept/$(basename "$(dirname "$log")")"; done
      "$here/down.sh"
      die "failed: $what. All logs: $kept"
    fi
    sleep 0.1
  done
}

nodes_started() {
  local n
  for ((n = 0; n < nodes; n++)); do cgroup_init "$CGROUP/node-$n/daemons" || return 1; done
}
nodes_ready() {
  [[ $(kubectl get nodes -o jsonpath='{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' | grep -c True) == "$nodes" ]]
}
pods_can_be_made() { kubectl -n default get serviceaccount/default configmap/kube-root-ca.crt; }
dns_answers() { in_control_plane busybox nslookup -type=a kubernetes.default.svc.cluster.local "$CONTROL_PLANE_IP"; }
proxies_ready() { in_control_plane "$BED_SOURCE/inside/proxies-ready.sh" "$nodes"; }

# The same bed, alive? An API server that was killed is back within seconds.
usable() {
  local left=100
  [[ $(cat "$RUN/up" 2>/dev/null) == "$made_from" ]] || return 1
  rm -rf "$RUN/held" # what a test killed and did not start
  cgroup_init "$CGROUP/control-plane" >/dev/null || return 1
  until kubectl get --raw /readyz >/dev/null 2>&1; do
    ((left--)) || return 1
    sleep 0.1
  done
}

if usable; then
  message="is up already"
  for ((n = 0; n < nodes; n++)); do "$BED_SOURCE/node" "$n" start --quiet 9>&-; done
else
  if [[ -e $RUN/up ]]; then
    if [[ $running_nodes != "$nodes" ]]; then
      say "restarting '$BED' with $nodes nodes instead of $running_nodes"
    else
      say "restarting '$BED': it is broken, or the programs or scripts it was started from have changed"
    fi
  elif [[ -e $RUN ]]; then
    say "removing an unfinished start of '$BED'"
  fi
  message="is up"
  "$here/down.sh"
  start
fi

await 60 "the nodes did not start" "$LOGS/control-plane.log" "$RUN"/node-*/logs/node.log -- nodes_started
"$here/load.sh" "${tars[@]}" 9>&- &
loader=$!
await 120 "the API server is not ready" "$LOGS"/{control-plane,etcd,kube-apiserver}.log -- test -e "$RUN/api-is-ready"
node_logs=() proxy_logs=()
for ((n = 0; n < nodes; n++)); do
  node_logs+=("$RUN/node-$n/logs"/{node,containerd,kubelet}.log)
  proxy_logs+=("$RUN/node-$n/logs/kube-proxy.log")
done
await 120 "not all nodes are Ready" "${node_logs[@]}" -- nodes_ready
await 60 "no default service account" "$LOGS"/{kube-apiserver,kube-controller-manager}.log -- pods_can_be_made
await 15 "cluster DNS does not answer" "$LOGS"/{cluster,coredns}.log -- dns_answers
await 30 "kube-proxy is not ready" "${proxy_logs[@]}" -- proxies_ready
wait "$loader" || die "loading images failed"

echo "$made_from" >"$RUN/up"
tenths=$((($(date +%s%N) - started) / 100000000))
say "'$BED' $message: $nodes nodes Ready, ${#tars[@]} images loaded, $((tenths / 10)).$((tenths % 10)) s. Try: tests/bed/enter kubectl get nodes"
