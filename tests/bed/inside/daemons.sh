# daemons.sh: run programs for as long as their namespace lives. Sourced by the
# two scripts that are pid 1 of a namespace.
# shellcheck shell=bash

# keep LOG COMMAND...: run COMMAND in the background, start it again when it ends,
# but not while it is held (tests/bed/control-plane).
keep() {
  local log=$1 held
  held=$RUN/held/$(basename "$log" .log)
  shift
  while :; do
    while [[ -e $held ]]; do sleep 0.1; done
    "$@" >>"$log" 2>&1 </dev/null || true
    echo "bed: ended, starting it again" >>"$log"
    sleep 1
  done &
}

# Be pid 1 until killed. A shell in `wait` also reaps the orphans that pid 1
# inherits (containerd's shims); `sleep` alone would collect zombies.
reap_for_ever() {
  while :; do
    sleep infinity &
    wait "$!" || true
  done
}

# own_resolver: names resolve by the cluster's DNS in this mount namespace.
own_resolver() {
  local file
  file=$(readlink -m /etc/resolv.conf) # often a link into /run, which is new here
  mkdir -p "$(dirname "$file")"
  [[ -e $file ]] || : >"$file"
  mount --bind "$RUN/resolv.conf" "$file"
}
