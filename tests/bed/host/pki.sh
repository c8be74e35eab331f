#!/usr/bin/env bash
# pki.sh NODES: the bed's certificates and kubeconfigs, as kubeadm would issue
# them: every component has an identity of its own. EC keys, because the dozen
# takes 0.1 s where RSA takes seconds.
set -euo pipefail
# shellcheck source=tests/bed/settings.sh
. "$(dirname "$(readlink -f "$0")")/../settings.sh"

nodes=$1
mkdir -p "$RUN/pki"
cd "$RUN/pki"
umask 077

new_key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)

# certificate NAME SUBJECT [SUBJECT-ALT-NAMES]: NAME.key and NAME.crt; with
# alternative names it also serves.
certificate() {
  openssl req -x509 "${new_key[@]}" -keyout "$1.key" -out "$1.crt" -days 365 -subj "$2" -CA ca.crt -CAkey ca.key \
    -addext basicConstraints=CA:FALSE -addext keyUsage=digitalSignature \
    -addext "extendedKeyUsage=${3:+serverAuth,}clientAuth" ${3:+-addext "subjectAltName=$3"} 2>/dev/null
}

# kubeconfig NAME: NAME.kubeconfig, complete in itself.
kubeconfig() {
  cat >"$RUN/$1.kubeconfig" <<EOF
apiVersion: v1
kind: Config
clusters:
  - name: bed
    cluster:
      server: https://$CONTROL_PLANE_IP:6443
      certificate-authority-data: $(base64 -w0 ca.crt)
users:
  - name: $1
    user:
      client-certificate-data: $(base64 -w0 "$1.crt")
      client-key-data: $(base64 -w0 "$1.key")
contexts:
  - name: bed
    context: {cluster: bed, user: $1}
current-context: bed
EOF
}

openssl req -x509 "${new_key[@]}" -keyout ca.key -out ca.crt -days 365 -subj /CN=etcd-scaler-bed \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
# Signs the tokens of service accounts.
openssl ecparam -name prime256v1 -genkey -noout -out service-account.key
openssl ec -in service-account.key -pubout -out service-account.pub 2>/dev/null

certificate apiserver /CN=kube-apiserver \
  "IP:$CONTROL_PLANE_IP,IP:$KUBERNETES_SERVICE_IP,IP:127.0.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
certificate kubelet-client /CN=kube-apiserver-kubelet-client
certificate front-proxy /CN=front-proxy-client

certificate admin /O=system:masters/CN=bed-admin
certificate controller-manager /CN=system:kube-controller-manager
certificate scheduler /CN=system:kube-scheduler
certificate proxy /CN=system:kube-proxy
certificate coredns /CN=system:coredns
certificate provisioner /CN=bed:provisioner
for client in admin controller-manager scheduler proxy coredns provisioner; do kubeconfig "$client"; done

for ((n = 0; n < nodes; n++)); do
  # The same certificate for both sides of a kubelet: client and server.
  certificate "node-$n" "/O=system:nodes/CN=system:node:node-$n" "DNS:node-$n,IP:$(node_ip "$n")"
  kubeconfig "node-$n"
done
