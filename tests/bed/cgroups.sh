# cgroups.sh: the bed's control groups, on cgroup v1 and v2. Sourced.
#
#   etcd-scaler-bed-NAME/control-plane    everything of the control plane
#   etcd-scaler-bed-NAME/node-N/daemons   node N's containerd, kubelet, kube-proxy
#   etcd-scaler-bed-NAME/node-N/kubepods  node N's pods, made by its kubelet
#
# They also say which processes belong to the bed: every process of the bed is in
# one of them and no other process is, so nothing is ever killed by a stale pid.
# shellcheck shell=bash

# One per hierarchy: a single line with cgroup v2, one per controller with v1.
cgroup_mounts() { awk '$3 ~ /^cgroup2?$/ && $2 ~ "^/sys/fs/cgroup" { print $2 }' /proc/mounts | sort -u; }

on_cgroup_v2() { [[ -e /sys/fs/cgroup/cgroup.controllers ]]; }

# cgroup_make PATH...: make control groups, their parents first.
cgroup_make() {
  local mount path part directory
  for mount in $(cgroup_mounts); do
    for path in "$@"; do
      directory=$mount
      for part in ${path//\// }; do
        # v2: a child has the controllers its parent delegates.
        ! on_cgroup_v2 || cgroup_delegate "$directory"
        directory+=/$part
        [[ -d $directory ]] || mkdir "$directory"
        # v1: a new cpuset is empty and takes no process until it is filled.
        if ! on_cgroup_v2 && [[ -e $directory/cpuset.cpus && -z $(<"$directory/cpuset.cpus") ]]; then
          cat "$directory/../cpuset.cpus" >"$directory/cpuset.cpus"
          cat "$directory/../cpuset.mems" >"$directory/cpuset.mems"
        fi
      done
    done
  done
}

cgroup_delegate() {
  local controller
  for controller in $(<"$1/cgroup.controllers"); do
    # A controller that cannot be delegated (rdma, misc ...) is not needed.
    echo "+$controller" 2>/dev/null >"$1/cgroup.subtree_control" || true
  done
}

# cgroup_join PATH: move this shell into a control group ("0" is the writer).
cgroup_join() {
  local mount
  for mount in $(cgroup_mounts); do echo 0 >"$mount/$1/cgroup.procs"; done
}

# cgroup_processes PATH: the processes in a control group and below it.
cgroup_processes() {
  local mount
  for mount in $(cgroup_mounts); do
    [[ ! -d $mount/$1 ]] || find "$mount/$1" -name cgroup.procs -exec cat {} + 2>/dev/null
  done | sort -un
}

# cgroup_init PATH: the process in PATH that is pid 1 of its own pid namespace;
# fails if there is none. This is how a running control plane or node is found.
cgroup_init() {
  local process
  for process in $(cgroup_processes "$1"); do
    if [[ $(awk '$1 == "NSpid:" && NF > 2 { print $NF }' "/proc/$process/status" 2>/dev/null) == 1 ]]; then
      echo "$process"
      return
    fi
  done
  return 1
}

# cgroup_frozen PATH: are all processes in it stopped? (With v1 the answer "not
# yet" is FREEZING, and reading it is what makes the kernel look again.)
cgroup_frozen() {
  if on_cgroup_v2; then
    grep -qx 'frozen 1' "/sys/fs/cgroup/$1/cgroup.events" 2>/dev/null
  else
    [[ $(cat "/sys/fs/cgroup/freezer/$1/freezer.state" 2>/dev/null) == FROZEN ]]
  fi
}

# cgroup_freeze PATH: stop everything in it; returns when all of it stands still.
cgroup_freeze() {
  local left=200
  if on_cgroup_v2; then echo 1 >"/sys/fs/cgroup/$1/cgroup.freeze"; else echo FROZEN >"/sys/fs/cgroup/freezer/$1/freezer.state"; fi
  until cgroup_frozen "$1"; do
    ((left--)) || die "control group $1 does not freeze"
    sleep 0.05
  done
}

# cgroup_thaw PATH: let everything in it go on; nothing to do if there is none.
cgroup_thaw() {
  if on_cgroup_v2; then
    [[ ! -d /sys/fs/cgroup/$1 ]] || echo 0 >"/sys/fs/cgroup/$1/cgroup.freeze"
  else
    [[ ! -d /sys/fs/cgroup/freezer/$1 ]] || echo THAWED >"/sys/fs/cgroup/freezer/$1/freezer.state"
  fi
}

# cgroup_remove PATH: remove a control group and all below it. Dying processes
# hold theirs for a moment.
cgroup_remove() {
  local mount left=100
  while ((left--)); do
    for mount in $(cgroup_mounts); do
      [[ ! -d $mount/$1 ]] || find "$mount/$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    # shellcheck disable=SC2046  # one word per mount
    ls -d $(cgroup_mounts | sed "s|\$|/$1|") >/dev/null 2>&1 || return 0
    sleep 0.05
  done
  say "control group $1 cannot be removed"
  return 1
}
