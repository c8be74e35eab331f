# settings.sh: names, paths and addresses of the bed. Sourced by every script of
# the bed, on the host and inside its namespaces; changes nothing by itself.
# shellcheck shell=bash disable=SC2034  # most of it is used by the scripts that source this

# A bare environment (cron, su, CI) may lack HOME or the sbin directories.
HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin
export HOME PATH

say() { echo "bed: $*" >&2; }
die() {
  say "$*"
  exit 1
}

BED_SOURCE=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
BED=${BED:-default}
[[ $BED =~ ^[a-z0-9][a-z0-9-]{0,19}$ ]] || die "BED='$BED': use a-z, 0-9 and '-', at most 20 characters"

# Shared by all beds: built once, valid until a pinned version changes.
BED_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/etcd-scaler/bed
BED_PROGRAMS=$BED_CACHE/programs
BED_IMAGE_TARS=$BED_CACHE/images
BED_BUILDAH=$BED_CACHE/buildah

# Of one bed only: made by `up`, gone after `down`. It has to lie on a real file
# system (ext4, xfs): containerd's overlay snapshots do not work on an overlay.
RUN=$BED_CACHE/run/$BED
LOGS=$RUN/logs
BED_LOCK=$BED_CACHE/run/$BED.lock
CGROUP=etcd-scaler-bed-$BED
# Control groups belong to the machine: two caches do not share one by accident.
[[ $BED_CACHE == "$(getent passwd "$(id -u)" | cut -d: -f6)/.cache/etcd-scaler/bed" ]] ||
  CGROUP+=-$(cksum <<<"$BED_CACHE" | cut -d' ' -f1)

# Every bed has a network namespace of its own, so all use the same addresses.
CONTROL_PLANE_IP=10.99.0.1
POD_RANGE=10.244.0.0/16
SERVICE_RANGE=10.96.0.0/16
KUBERNETES_SERVICE_IP=10.96.0.1
node_ip() { echo "10.99.0.$((10 + $1))"; }
node_pod_range() { echo "10.244.$1.0/24"; }

CONTAINERD_SOCKET=/run/containerd/containerd.sock # each node has its own /run

# program_dir MODULE: where the programs of modules/MODULE are, once built. The
# key covers everything the result depends on, so a changed pin is another
# directory and an old one is never mistaken for it. What is not built from Go
# has only a `build`.
program_dir() {
  local module=$BED_SOURCE/modules/$1 key
  key=$({ cat "$module"/{go.mod,go.sum,build} 2>/dev/null || true; find "$module" -name '*.go' -exec cat {} +; } | sha256sum | cut -c1-12)
  echo "$BED_PROGRAMS/$1-$(uname -m)-$key"
}
BED_MODULES=(kubernetes helm-4 helm-3 coredns etcd-3.6 etcd-3.5 etcd-3.5-early)
# Not served everywhere: the bed also does without it.
BED_OPTIONAL_MODULES=(etcd-3.4)
# Each is an image too, localhost/etcd:VERSION.
BED_ETCDS=(etcd-3.6 etcd-3.5 etcd-3.5-early etcd-3.4)

# etcd_version MODULE: what its etcd calls itself, for example 3.6.16.
etcd_version() { "$(program_dir "$1")/etcd" --version | sed -n 's/^etcd Version: //p'; }

# pinned MODULE PATH: the version of PATH that modules/MODULE/go.mod requires.
pinned() {
  sed -nE "s|^(require)?[[:space:]]*$2 (v[^ ]+).*|\2|p" "$BED_SOURCE/modules/$1/go.mod" | head -n 1
}
