#!/usr/bin/env bash
# kube-proxy.sh NODE: kube-proxy for the network namespace it is run in. The
# connection-tracking limits belong to the whole machine: they are left alone.
set -euo pipefail
# shellcheck source=tests/bed/settings.sh
. "$(dirname "$(readlink -f "$0")")/../settings.sh"
exec "$(program_dir kubernetes)/kube-proxy" --kubeconfig="$RUN/proxy.kubeconfig" --hostname-override="$1" \
  --cluster-cidr="$POD_RANGE" --proxy-mode=iptables --conntrack-max-per-core=0 \
  --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0
