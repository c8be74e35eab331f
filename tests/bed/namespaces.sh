# namespaces.sh: run commands in the bed's namespaces. Sourced on the host, after
# settings.sh and cgroups.sh.
# shellcheck shell=bash

# A command that is entered dies with the nsenter that the caller sees and kills
# (a test's timeout): without pdeathsig it would stay behind in the namespace.
# shellcheck disable=SC2016  # expanded by the inner shell
_entered=(setpriv --pdeathsig TERM bash -c 'cd -- "$0" && exec "$@"')

# exec_in_control_plane COMMAND...: become COMMAND beside the control plane. It
# keeps working directory, standard files and exit code.
exec_in_control_plane() {
  local process
  # A test that was entered kills nodes too; from inside, pid 1 is the control plane's own.
  ! cgroup_processes "$CGROUP/control-plane" | grep -qx 1 || exec "$@"
  process=$(cgroup_init "$CGROUP/control-plane") || die "bed '$BED' is not up"
  exec nsenter -t "$process" -n -m -p -u -i -- "${_entered[@]}" "$PWD" "$@"
}

# exec_in_node N COMMAND...: the same in node N.
exec_in_node() {
  local process
  process=$(cgroup_init "$CGROUP/node-$1/daemons") || die "node-$1 of bed '$BED' is not running"
  shift
  exec nsenter -t "$process" -n -m -p -u -i -- "${_entered[@]}" "$PWD" "$@"
}

in_control_plane() { (exec_in_control_plane "$@"); }
in_node() { (exec_in_node "$@"); }

# bed_nodes: how many nodes the bed was started with; fails if it never was.
bed_nodes() { cat "$RUN/nodes" 2>/dev/null; }
