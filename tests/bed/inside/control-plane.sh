#!/usr/bin/env bash
# control-plane.sh NODES: pid 1 of the bed. Makes the bed's network and runs etcd,
# the API server, the controllers, the scheduler, cluster DNS and a kube-proxy.
# The nodes are namespaces inside this one: when this process dies, all is gone.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/bed/settings.sh
. "$here/../settings.sh"
# shellcheck source=tests/bed/inside/daemons.sh
. "$here/daemons.sh"

nodes=$1
kubernetes=$(program_dir kubernetes)
pki=$RUN/pki
cd "$RUN"

mount -t tmpfs -o mode=755 tmpfs /run
own_resolver
hostname "bed-$BED"

# The bridge joins the nodes; this namespace is on it with its own address.
ip link set lo up
ip link add bed0 type bridge
ip address add "$CONTROL_PLANE_IP/24" dev bed0
ip link set bed0 up
echo 1 >/proc/sys/net/ipv4/ip_forward
# Packets that only cross the bridge are the nodes' own business: without this
# the rules of the kube-proxy here would apply to them a second time.
[[ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ]] || echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables
for ((n = 0; n < nodes; n++)); do ip route add "$(node_pod_range "$n")" via "$(node_ip "$n")"; done
# A packet made here needs a route before kube-proxy's rules rewrite its address.
ip route add default dev bed0

for ((n = 0; n < nodes; n++)); do "$here/start-node.sh" "$n" "$nodes"; done

keep "$LOGS/etcd.log" "$(program_dir etcd-3.6)/etcd" \
  --data-dir="$RUN/etcd" --unsafe-no-fsync --log-level=warn \
  --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
  --listen-peer-urls=http://127.0.0.1:2380

# More flags, here and below, of which the last wins, come from tests/bed/control-plane start.
keep "$LOGS/kube-apiserver.log" "$here/with-flags.sh" "$RUN/flags/kube-apiserver" "$kubernetes/kube-apiserver" \
  --etcd-servers=http://127.0.0.1:2379 \
  --bind-address=0.0.0.0 --secure-port=6443 --advertise-address="$CONTROL_PLANE_IP" \
  --service-cluster-ip-range="$SERVICE_RANGE" \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
  --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local \
  --service-account-key-file="$pki/service-account.pub" --service-account-signing-key-file="$pki/service-account.key" \
  --kubelet-preferred-address-types=InternalIP --kubelet-certificate-authority="$pki/ca.crt" \
  --kubelet-client-certificate="$pki/kubelet-client.crt" --kubelet-client-key="$pki/kubelet-client.key" \
  --requestheader-client-ca-file="$pki/ca.crt" --requestheader-allowed-names=front-proxy-client \
  --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
  --requestheader-extra-headers-prefix=X-Remote-Extra- \
  --proxy-client-cert-file="$pki/front-proxy.crt" --proxy-client-key-file="$pki/front-proxy.key" \
  --audit-policy-file="$BED_SOURCE/config/audit-policy.yaml" --audit-log-path="$LOGS/audit.log" --audit-log-maxsize=2000

until "$kubernetes/kubectl" --kubeconfig=admin.kubeconfig get --raw /readyz >/dev/null 2>&1; do sleep 0.1; done
# The kubelets wait for this file (inside/node.sh): started sooner they only
# back off from an API server that is not there.
: >"$RUN/api-is-ready"

# The time limits are short so that tests need not wait for them: a dead node is
# NotReady after 8 s (usually 50), a volume made by hand bound after 1 s (15).
# The service-account credentials give each controller its own identity, which
# admission rules see; kubeadm sets them too.
keep "$LOGS/kube-controller-manager.log" "$here/with-flags.sh" "$RUN/flags/kube-controller-manager" \
  "$kubernetes/kube-controller-manager" \
  --kubeconfig=controller-manager.kubeconfig \
  --authentication-kubeconfig=controller-manager.kubeconfig --authorization-kubeconfig=controller-manager.kubeconfig \
  --leader-elect=false --use-service-account-credentials=true \
  --root-ca-file="$pki/ca.crt" --service-account-private-key-file="$pki/service-account.key" \
  --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
  --allocate-node-cidrs=false \
  --node-monitor-period=1s --node-monitor-grace-period=8s --pvclaimbinder-sync-period=1s

keep "$LOGS/kube-scheduler.log" "$kubernetes/kube-scheduler" \
  --kubeconfig=scheduler.kubeconfig \
  --authentication-kubeconfig=scheduler.kubeconfig --authorization-kubeconfig=scheduler.kubeconfig \
  --leader-elect=false

"$kubernetes/kubectl" --kubeconfig=admin.kubeconfig apply -f "$BED_SOURCE/config/cluster.yaml" >"$LOGS/cluster.log" 2>&1
for half in claims volumes; do keep "$LOGS/provisioner.log" "$here/provisioner.sh" "$half"; done
export RUN CONTROL_PLANE_IP # the Corefile uses them
keep "$LOGS/coredns.log" "$(program_dir coredns)/coredns" -conf "$BED_SOURCE/config/Corefile"

# Lets the API server reach webhooks by the address of their Service. kube-proxy
# wants the name of an existing node; it takes nothing else from that node.
keep "$LOGS/kube-proxy.log" "$here/kube-proxy.sh" node-0

reap_for_ever
