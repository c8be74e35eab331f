#!/usr/bin/env bash
# make bench: the numbers of a scale, on the cluster that KUBECONFIG names (tests/src/bin/bench/). It was compiled before:
# the bed has no way out to a registry. With an argument one part of it: scales, or keys, which are a million or KEYS.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo run --locked --offline --quiet -p tests --bin bench -- "$@"
