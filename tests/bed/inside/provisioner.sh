#!/usr/bin/env bash
# provisioner.sh claims|volumes: the provisioner of the class bed-local, in two
# halves that the control plane keeps running. It stands in for a cluster's own
# (Mayastor's default for etcd is OpenEBS's local hostpath): a volume is a
# directory of the node that the scheduler chose for the claim's first pod.
#
# No state of its own: a watch begins with all that is there, so a half that ended
# goes on where it was.
set -euo pipefail
# shellcheck source=tests/bed/settings.sh
. "$(dirname "$(readlink -f "$0")")/../settings.sh"

provisioner=bed/local
volumes=/var/local/provisioned

kubectl() { "$(program_dir kubernetes)/kubectl" --kubeconfig="$RUN/provisioner.kubeconfig" "$@"; }

# watch KIND FIELD...: a line for each object of KIND and for each of its changes,
# the fields separated by '|': they may be empty.
watch() {
  local kind=$1 line=
  shift
  for field in "$@"; do line+="{$field}|"; done
  kubectl get "$kind" --all-namespaces --watch -o "jsonpath=$line{\"\n\"}"
}

# directory NODE PATH: where a node's directory lies for everybody else.
directory() { echo "$RUN/$1/var-local/${2#/var/local/}"; }

# One in the background for each claim: many may come at once.
make_volume() {
  local namespace=$1 claim=$2 uid=$3 node=$4 size=$5 modes=$6 path said
  path=$volumes/$namespace-$claim-$uid
  mkdir -p "$(directory "$node" "$path")"
  # By --raw: no discovery of the API first. With the claim's uid in it the volume
  # is bound at once, without it at the next resync.
  until said=$(kubectl create --raw /api/v1/persistentvolumes -f - 2>&1 <<END
{ "apiVersion": "v1", "kind": "PersistentVolume",
  "metadata": { "name": "pvc-$uid", "annotations": { "pv.kubernetes.io/provisioned-by": "$provisioner" } },
  "spec": {
    "accessModes": $modes, "capacity": { "storage": "$size" }, "volumeMode": "Filesystem",
    "storageClassName": "bed-local", "persistentVolumeReclaimPolicy": "Delete",
    "claimRef": { "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "$namespace", "name": "$claim", "uid": "$uid" },
    "local": { "path": "$path" },
    "nodeAffinity": { "required": { "nodeSelectorTerms": [ { "matchExpressions": [
      { "key": "kubernetes.io/hostname", "operator": "In", "values": ["$node"] } ] } ] } } } }
END
  ); do
    [[ $said != *AlreadyExists* ]] || return 0
    echo "$namespace/$claim: $said"
    sleep 0.5
  done
  echo "$namespace/$claim: made pvc-$uid on $node"
}

claims() {
  local namespace claim uid volume class by node size modes
  watch persistentvolumeclaims .metadata.namespace .metadata.name .metadata.uid .spec.volumeName .spec.storageClassName \
    '.metadata.annotations.volume\.kubernetes\.io/storage-provisioner' \
    '.metadata.annotations.volume\.kubernetes\.io/selected-node' \
    .spec.resources.requests.storage .spec.accessModes |
    while IFS='|' read -r namespace claim uid volume class by node size modes _; do
      [[ -z $volume && $class == bed-local && $by == "$provisioner" && -n $node ]] || continue
      make_volume "$namespace" "$claim" "$uid" "$node" "$size" "$modes" &
    done
}

# A volume is Released when its claim is gone, and that goes after the last pod
# that used it. What was kept with another policy is a person's to remove.
volumes() {
  local volume phase by policy node path
  watch persistentvolumes .metadata.name .status.phase '.metadata.annotations.pv\.kubernetes\.io/provisioned-by' \
    .spec.persistentVolumeReclaimPolicy '.spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].values[0]' \
    .spec.local.path |
    while IFS='|' read -r volume phase by policy node path _; do
      [[ $phase == Released && $by == "$provisioner" && $policy == Delete ]] || continue
      # What is about to be removed is only ever one directory below ours.
      [[ $node =~ ^node-[0-6]$ && $path =~ ^$volumes/[a-z0-9][a-z0-9.-]*$ ]] ||
        { echo "$volume: left alone: '$path' on '$node' is not a directory of ours" && continue; }
      rm -rf "$(directory "$node" "$path")"
      kubectl delete persistentvolume "$volume" --ignore-not-found --wait=false
    done
}

"$1"
