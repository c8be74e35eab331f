#!/usr/bin/env bash
# packages.sh: install what the bed needs of the distribution: as root on Debian
# (or a distribution made from it) by itself, else say what is missing.
set -euo pipefail
# shellcheck source=tests/bed/settings.sh
. "$(dirname "$(readlink -f "$0")")/../settings.sh"

# What is looked for, and the Debian package that has it.
needed="
  containerd                          containerd
  runc                                runc
  /usr/lib/cni/ptp                    containernetworking-plugins
  buildah                             buildah
  protoc                              protobuf-compiler
  iptables                            iptables
  conntrack                           conntrack
  socat                               socat
  ip                                  iproute2
  openssl                             openssl
  nsenter                             util-linux
  mount                               mount
  awk                                 mawk
  find                                findutils
  /etc/ssl/certs/ca-certificates.crt  ca-certificates
"
missing=()
while read -r what package; do
  [[ -z $what || -e $what ]] || command -v "$what" >/dev/null || missing+=("$package")
done <<<"$needed"
# The ordinary busybox package has the same file, but it does not run in an image
# that has nothing else.
[[ $(ldd "$(command -v busybox)" 2>&1 || true) == *"not a dynamic executable"* ]] || missing+=(busybox-static)
((${#missing[@]})) || exit 0

if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
  say "missing: ${missing[*]} (names of Debian's packages)"
  die "install them as root: apt-get update && apt-get install --no-install-recommends ${missing[*]}"
fi

say "installing Debian packages: ${missing[*]}"
# No package may start a daemon: the bed runs its own containerd, in namespaces.
# A policy that is there already is the machine's own, and stays.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
log=$(mktemp)
{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 || {
  tail -n 30 "$log" >&2
  die "apt-get failed, see $log"
}
rm "$log"
# Nor at the next boot.
if [[ " ${missing[*]} " == *" containerd "* && -d /run/systemd/system ]]; then
  systemctl disable --quiet containerd.service
fi
