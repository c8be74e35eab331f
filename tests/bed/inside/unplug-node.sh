#!/usr/bin/env bash
# unplug-node.sh N: run in the control plane's namespaces: remove what a node
# that was killed leaves of the network.
set -euo pipefail
name=node-$1
ip link delete "$name" 2>/dev/null || true
ip netns delete "$name" 2>/dev/null || true
