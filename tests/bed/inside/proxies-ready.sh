#!/usr/bin/env bash
# proxies-ready.sh NODES: has the kube-proxy of every node written its rules?
# Asked with bash's own sockets: nothing else here is sure to speak HTTP.
set -euo pipefail
# shellcheck source=tests/bed/settings.sh
. "$(dirname "$(readlink -f "$0")")/../settings.sh"

for ((n = 0; n < $1; n++)); do
  exec 3<>"/dev/tcp/$(node_ip "$n")/10256"
  printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3
  read -r -t 2 answer <&3
  [[ $answer == *" 200 "* ]] || { echo "node-$n: $answer" && exit 1; }
  exec 3>&-
done
