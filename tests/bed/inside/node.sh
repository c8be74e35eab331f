#!/usr/bin/env bash
# node.sh N NODES: pid 1 of node N. Makes the node's network and directories and
# runs containerd, kubelet and kube-proxy.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/bed/settings.sh
. "$here/../settings.sh"
# shellcheck source=tests/bed/inside/daemons.sh
. "$here/daemons.sh"

n=$1 nodes=$2
name=node-$n
disk=$RUN/$name
logs=$disk/logs
cd "$disk"

# What a reboot forgets.
mount -t tmpfs -o mode=755 tmpfs /run
own_resolver
hostname "$name"
cat /proc/sys/kernel/random/uuid >/run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id

# What it keeps: the node's own copy of each directory that is written to, so that
# nothing reaches the machine's and no two nodes share any. kubelets that share
# /var/log/pods empty each other's logs. /var/local is for hostPath volumes.
for directory in /var/lib/kubelet /var/lib/containerd /var/lib/cni /var/log/pods /var/log/containers /var/local; do
  own=${directory#/} # var-local in the node's own directory: host/plant-seed.sh fills some
  own=$disk/${own//\//-}
  mkdir -p "$own" "$directory"
  mount --bind "$own" "$directory"
done
mount --make-rshared /var/lib/kubelet # the mounts in it have to reach the containers

ip link set lo up
ip address add "$(node_ip "$n")/24" dev eth0
ip link set eth0 up
ip route add default via "$CONTROL_PLANE_IP"
for ((m = 0; m < nodes; m++)); do
  ((m == n)) || ip route add "$(node_pod_range "$m")" via "$(node_ip "$m")"
done
echo 1 >/proc/sys/net/ipv4/ip_forward

mkdir -p cni
# Pods are routed, not bridged: traffic between two pods of a node also passes
# iptables, where Services are made, without the kernel's br_netfilter. Addresses
# are real everywhere, nothing is masqueraded. The leases lie in /run because
# after a "reboot" no pod is left that could give its address back.
cat >cni/10-bed.conflist <<EOF
{
  "cniVersion": "0.4.0",
  "name": "bed",
  "plugins": [
    {
      "type": "ptp",
      "ipMasq": false,
      "ipam": {
        "type": "host-local",
        "dataDir": "/run/cni-leases",
        "ranges": [[{"subnet": "$(node_pod_range "$n")"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
EOF

# restrict_oom_score_adj: in a container the machine may lack CAP_SYS_RESOURCE.
cat >containerd.toml <<EOF
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "$CONTAINERD_SOCKET"
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
sandbox_image = "localhost/pause:1"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$disk/cni"
EOF
keep "$logs/containerd.log" containerd --config containerd.toml

# Short intervals, like the control plane's: the kubelet reports every 2 s so that
# its silence means something after 8 s. Thresholds for a full disk are off: the
# disk is the machine's, and its other content is not the bed's to judge.
cat >kubelet.yaml <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $RUN/pki/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: $RUN/pki/$name.crt
tlsPrivateKeyFile: $RUN/pki/$name.key
clusterDNS: [$CONTROL_PLANE_IP]
clusterDomain: cluster.local
resolvConf: $RUN/pod-resolv.conf
containerRuntimeEndpoint: unix://$CONTAINERD_SOCKET
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP/$name
failCgroupV1: false
failSwapOn: false
nodeStatusUpdateFrequency: 2s
nodeLeaseDurationSeconds: 8
syncFrequency: 5s
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 50Mi, nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
EOF
until [[ -e $RUN/api-is-ready && -S $CONTAINERD_SOCKET ]]; do sleep 0.1; done
keep "$logs/kubelet.log" "$(program_dir kubernetes)/kubelet" --config=kubelet.yaml \
  --kubeconfig="$RUN/$name.kubeconfig" --hostname-override="$name" --node-ip="$(node_ip "$n")" -v=2
keep "$logs/kube-proxy.log" "$here/kube-proxy.sh" "$name"

reap_for_ever
