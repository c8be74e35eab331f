#!/usr/bin/env bash
# make bench: the numbers of a scale, on the cluster that KUBECONFIG names (tests/src/bin/bench/).
# It was compiled before: the bed has no way out to a registry. With the argument keys only the comparison and the
# snapshot of 1 M keys; KEYS tries that out with fewer.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo run --locked --offline --quiet -p tests --bin bench -- "$@"
