#!/usr/bin/env bash
# The main job, to watch: three etcd members under load become four, and nothing is lost.
#
#   make demo                        # in the test bed
#   make demo BED=none               # on the cluster of your current kubectl context
#   HELM=3 uses Helm 3, WAIT=1 adds --wait to both Helm commands
#
# It asserts what it shows and fails otherwise. Run it again at will: it first removes what the
# run before left. The images have to be on the nodes already; their names are variables:
: "${IMAGE:=localhost/etcd-scaler:dev}" "${TRAFFIC:=localhost/etcd-scaler-traffic:dev}"
: "${ETCD_IMAGE:=localhost/etcd:3.6.16}" "${BUSYBOX:=localhost/busybox:1}"
set -euo pipefail
cd "$(dirname "$0")/.."

release=puls8 namespace=puls8 set=puls8-etcd
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT

# --- how it reads ---------------------------------------------------------------------------------

bold='' dim='' green='' red='' plain=''
[[ ! -t 1 || -n ${NO_COLOR:-} ]] || { bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'; }

part() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
say() { printf '  %s\n' "$@"; }
# A command as a person would type it, and then as it runs.
shown() { printf '  %s$ %s%s\n' "$dim" "$*" "$plain"; }
run() {
  shown "$*"
  "$@" | sed 's/^/  /'
}
check() { # WHAT CONDITION...
  local what=$1
  shift
  if "$@"; then
    printf '  %s✓ %s%s\n' "$green" "$what" "$plain"
  else
    printf '  %s✗ %s%s\n' "$red" "$what" "$plain"
    failed+=("$what")
  fi
}
failed=()
trap 'printf "%sdemo: line %s failed: %s%s\n" "$red" "$LINENO" "$BASH_COMMAND" "$plain" >&2' ERR

milliseconds() { date +%s%3N; }
seconds() { printf '%d.%d' $(($1 / 1000)) $(($1 % 1000 / 100)); }

k=(kubectl -n "$namespace")
etcdctl=("${k[@]}" exec "$set-0" -c etcd -- etcdctl)

# --- what it needs --------------------------------------------------------------------------------

helm=helm
if [[ ${HELM:-4} == 3 ]] && command -v helm3 >/dev/null; then helm=helm3; fi
for program in kubectl "$helm"; do
  command -v "$program" >/dev/null || { echo "demo: $program is not on PATH (in the bed: make demo)" >&2 && exit 1; }
done
helm_version=$("$helm" version --template '{{.Version}}')
[[ $helm_version == v${HELM:-4}.* ]] || { echo "demo: $helm is $helm_version, HELM=${HELM:-4} was asked for" >&2 && exit 1; }
nodes=$(kubectl get nodes -o name) || { echo "demo: kubectl reaches no cluster" >&2 && exit 1; }
nodes=${nodes//node\//}

chart_values=(
  -f chart/values-puls8.yaml
  --set "image.repository=${IMAGE%:*},image.tag=${IMAGE##*:}"
  --set "etcd.image.repository=${ETCD_IMAGE%:*},etcd.image.tag=${ETCD_IMAGE##*:}"
  --set "etcd.volumePermissions.image.repository=${BUSYBOX%:*},etcd.volumePermissions.image.tag=${BUSYBOX##*:}"
)
(($(wc -w <<<"$nodes") >= 4)) || chart_values+=(--set etcd.podAntiAffinityPreset=soft)
options=(--hide-notes)
[[ -z ${WAIT:-} ]] || options+=(--wait)

# --- the run before -------------------------------------------------------------------------------

# In the bed everything is the page's. A cluster of yours may run the real Puls8, so there the demo
# keeps its data elsewhere, and touches nothing that it has not made.
mark=etcd-scaler.io/demo
data=/var/local/puls8
if [[ ${BED:-none} == none ]]; then
  data=/var/local/etcd-scaler-demo
  chart_values+=(--set "pv.hostPath=$data/etcd/pod-")
  labels=$(kubectl get namespace "$namespace" --ignore-not-found -o jsonpath='{.metadata.labels}')
  foreign=$(kubectl get pv -o jsonpath='{range .items[*]}{.metadata.name} {.spec.hostPath.path}{"\n"}{end}' |
    grep '^etcd-volume-[0-6] ' | grep -v " $data/" || true)
  if [[ -n $labels && $labels != *$mark* || -n $foreign ]]; then
    echo "demo: this cluster has a namespace $namespace or volumes etcd-volume-N that the demo has not made; use another cluster" >&2
    exit 1
  fi
fi

# Volumes are kept on purpose when a release goes, their data too: on it, a new installation would
# be the old cluster. So a pod per node removes the directories.
clean() {
  local node
  "$helm" uninstall "$release" -n "$namespace" --ignore-not-found >/dev/null
  kubectl delete namespace "$namespace" --ignore-not-found --timeout=120s >/dev/null
  kubectl delete pv etcd-volume-{0..6} --ignore-not-found --timeout=60s >/dev/null
  kubectl -n default delete pods -l app=etcd-scaler-demo-clean --ignore-not-found --timeout=60s >/dev/null
  for node in $nodes; do
    cat <<YAML
---
apiVersion: v1
kind: Pod
metadata: {generateName: etcd-scaler-demo-clean-, namespace: default, labels: {app: etcd-scaler-demo-clean}}
spec:
  nodeName: $node
  restartPolicy: Never
  tolerations: [{operator: Exists}]
  terminationGracePeriodSeconds: 0
  containers:
    - name: clean
      image: $BUSYBOX
      imagePullPolicy: IfNotPresent
      command: [rm, -rf, "/on-the-node/${data##*/}"]
      volumeMounts: [{name: on-the-node, mountPath: /on-the-node}]
  volumes: [{name: on-the-node, hostPath: {path: "${data%/*}", type: DirectoryOrCreate}}]
YAML
  done | kubectl create -f - >/dev/null
  kubectl -n default wait pods -l app=etcd-scaler-demo-clean --for=jsonpath='{.status.phase}'=Succeeded --timeout=60s >/dev/null
  kubectl -n default delete pods -l app=etcd-scaler-demo-clean --wait=false >/dev/null
}

part "0. A clean start"
say "Helm ${helm_version#v}, $(wc -w <<<"$nodes") nodes. Whatever an earlier demo left in namespace $namespace, its volumes and" \
  "their directories on the nodes are removed."
clean

# --- three members --------------------------------------------------------------------------------

part "1. Three members"
say "The chart installs etcd with the names of the Puls8 page, our webhook, and a Job after it that makes the" \
  "volumes and writes down which members it has verified. The namespace enforces Pod Security 'baseline'."
shown "kubectl create namespace $namespace   # enforces Pod Security 'baseline'"
kubectl create -f - >/dev/null <<YAML
apiVersion: v1
kind: Namespace
metadata: {name: $namespace, labels: {pod-security.kubernetes.io/enforce: baseline, $mark: ""}}
YAML
started=$(milliseconds)
shown "$helm install $release chart -n $namespace ${chart_values[*]} ${options[*]}"
"$helm" install "$release" chart -n "$namespace" "${chart_values[@]}" "${options[@]}" >"$work/helm" 2>&1 || {
  cat "$work/helm"
  exit 1
}
say "Installed in $(seconds $(($(milliseconds) - started))) s."
run "${k[@]}" get pods -l app=etcd -o wide

part "2. A load"
say "A pod in the cluster puts numbered keys through the Service, 300 a second, and notes which were acknowledged."
"${k[@]}" create -f - >/dev/null <<YAML
apiVersion: v1
kind: Pod
metadata: {name: traffic, labels: {app: traffic}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: traffic
      image: $TRAFFIC
      imagePullPolicy: IfNotPresent
      args: [write, --endpoint, "http://$set:2379", --clients, "3", --state, /state]
      securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
      volumeMounts: [{name: state, mountPath: /state}]
  volumes: [{name: state, emptyDir: {}}]
YAML
"${k[@]}" wait pod/traffic --for=condition=Ready --timeout=60s >/dev/null
patience=$((SECONDS + 30))
until "${k[@]}" exec traffic -- /traffic stats | grep -qE '"acknowledged":[0-9]{3}'; do
  ((SECONDS < patience)) || { "${k[@]}" logs traffic --tail=5 && exit 1; }
done
run "${k[@]}" logs traffic --tail=3

# --- three become four ----------------------------------------------------------------------------

pods=("${k[@]}" get pods -l app=etcd --sort-by=.metadata.name
  -o custom-columns='POD:.metadata.name,UID:.metadata.uid,RESTARTS:.status.containerStatuses[0].restartCount,NODE:.spec.nodeName,IP:.status.podIP')
"${pods[@]}" >"$work/before"

# The log lines of every Job of ours, with the seconds since the start.
follow_jobs() {
  local pod phase followed=' '
  while read -r pod phase; do
    [[ $phase != Pending && $followed != *" $pod "* ]] || continue
    followed+="$pod "
    "${k[@]}" logs -f "$pod" 2>/dev/null | tell "$(job_of "$pod")" &
  done
  wait
}
job_of() {
  case $1 in
  *-preflight-*) echo before ;;
  *-post-*) echo after ;;
  *) echo launched ;; # by the webhook: Helm, told to wait, has not come to the Job after the upgrade yet
  esac
}
tell() {
  local at level message
  while read -r at level message; do
    [[ $level == INFO ]] || message="$level $message"
    printf '  %7s s  %-8s  %s\n' "$(seconds $(($(date -d "$at" +%s%3N) - started)))" "$1" "$message"
  done
}

part "3. Three become four"
say "One value changes. Before Helm changes anything, a Job asks all members whether they are well and shows the" \
  "change to the API server as a dry run. After it, a Job makes the volume, adds the member, lets its pod start," \
  "promotes it and compares all keys. What the Jobs say, seconds since the start:"
upgrade=("$helm" upgrade "$release" chart -n "$namespace" "${chart_values[@]}" "${options[@]}" --set etcd.replicaCount=4)
shown "${upgrade[*]}"
started=$(milliseconds)
mkfifo "$work/jobs"
"${k[@]}" get pods -l "etcd-scaler.io/target=$set" --watch-only --no-headers \
  -o custom-columns='NAME:.metadata.name,PHASE:.status.phase' >"$work/jobs" 2>/dev/null &
watcher=$!
follow_jobs <"$work/jobs" &
follower=$!
"${upgrade[@]}" >"$work/helm" 2>&1 && upgraded=yes || upgraded=no
ended=$(milliseconds)
kill "$watcher"
wait "$follower" || true
if [[ $upgraded == no ]]; then
  cat "$work/helm"
  exit 1
fi
say "Helm came back after $(seconds $((ended - started))) s, with:"
grep -E '^(STATUS|REVISION|.*[Ww]arning|.*WARN)' "$work/helm" | sed 's/^/  /'

# --- what came of it ------------------------------------------------------------------------------

part "4. What came of it"
say "etcd's own member list: four voting members, no learner."
run "${etcdctl[@]}" member list -w table
asked=() urls=()
for ordinal in 0 1 2 3; do
  asked+=("http://$set-$ordinal.$set-headless:2379")
  urls+=("$set-$ordinal=http://$set-$ordinal.$set-headless:2379")
done
endpoints=--endpoints=$(IFS=, && echo "${asked[*]}")
run "${etcdctl[@]}" "$endpoints" endpoint status -w table
voters=$("${etcdctl[@]}" member list -w simple | awk -F', ' '$2 == "started" && $6 == "false"' | wc -l)
check "four voting members" test "$voters" = 4

say "" "The environment as it now stands in the StatefulSet: one line, as etcd wants it."
env_of() { "${k[@]}" get statefulset "$set" -o jsonpath="{.spec.template.spec.containers[0].env[?(@.name=='$1')].value}"; }
initial_cluster=$(env_of ETCD_INITIAL_CLUSTER) state=$(env_of ETCD_INITIAL_CLUSTER_STATE)
say "ETCD_INITIAL_CLUSTER=$initial_cluster" "ETCD_INITIAL_CLUSTER_STATE=$state"
peers=
for ordinal in 0 1 2 3; do
  peers+=,$set-$ordinal=http://$set-$ordinal.$set-headless.$namespace.svc.cluster.local:2380
done
check "exactly the four peers of the page, state existing" test "$initial_cluster $state" = "${peers#,} existing"

say "" "The volumes: made by the Job, reserved for their claims. The newcomer's in full: the page's, tied to its node."
run kubectl get pv etcd-volume-{0..3}
run kubectl get pv etcd-volume-3 -o yaml
check "the newcomer's volume is bound" test "$(kubectl get pv etcd-volume-3 -o jsonpath='{.status.phase}')" = Bound

say "" "The pods, before and after: the three that were there are the same ones."
"${pods[@]}" >"$work/after"
sed 's/^/  before  /' "$work/before"
sed 's/^/  after   /' "$work/after"
identity() { awk 'NR > 1 && NR <= 4 { print $1, $2, $3 }' "$1"; }
check "same UIDs of members 0 to 2" test "$(identity "$work/after")" = "$(identity "$work/before")"
check "no restart of any member" test -z "$(awk 'NR > 1 && $3 != 0' "$work/after")"

say "" "The load, stopped now: every acknowledged key is read back from every member, asked by its own URL."
verify=("${k[@]}" exec traffic -- /traffic verify --members "$(IFS=, && echo "${urls[*]}")" --from "$started" --to "$ended" --table)
shown "${verify[*]}"
"${verify[@]}" >"$work/load" && lost=no || lost=yes
sed -e 's/in the window   /during the scale/' -e 's/^/  /' "$work/load"
during=$(awk '/^in the window/ { print $4 }' "$work/load")
check "more than 1000 writes acknowledged during the scale ($during)" test "$during" -gt 1000
whole=$(awk 'members && NF == 4 && $2 == all && $3 == 0 && $4 == 0 { n++ } / in all / { all = $5 } $1 == "member" { members = 1 } END { print n }' "$work/load")
check "every one of them read back from all four, none lost, none wrong" test "$lost $whole" = "no 4"

say "" "And etcd's own hash over everything, of all members at one revision."
revision=$("${etcdctl[@]}" endpoint status -w json | sed -E 's/.*"revision":([0-9]+).*/\1/')
hashkv=("${etcdctl[@]}" "$endpoints" endpoint hashkv --rev="$revision" -w)
run "${hashkv[@]}" table
check "equal HashKV of four members at revision $revision" test \
  "$("${hashkv[@]}" simple | awk -F', ' '{ n++; hash[$2] } END { print n, length(hash) }')" = "4 1"

# --- the end --------------------------------------------------------------------------------------

part "5. Look around"
enter='' down="$helm uninstall $release -n $namespace && kubectl delete namespace $namespace && kubectl delete pv etcd-volume-{0..3}"
if [[ ${BED:-none} != none ]]; then enter='tests/bed/enter ' down='make bed-down'; fi
say "${enter}kubectl -n $namespace get pods -o wide" \
  "${enter}kubectl -n $namespace describe statefulset $set        # what the Job did, as Events" \
  "${enter}kubectl -n $namespace logs job/$release-etcd-scaler-post" \
  "${enter}$helm upgrade $release chart -n $namespace --reuse-values --set etcd.replicaCount=5" \
  "Take it down:" "$down"

if ((${#failed[@]})); then
  part "${red}Not as promised:${plain}"
  say "${failed[@]}"
  exit 1
fi
