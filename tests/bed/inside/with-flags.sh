#!/usr/bin/env bash
# with-flags.sh FILE COMMAND...: become COMMAND with the flags behind it that FILE has, one a line, if it is there.
set -euo pipefail
file=$1
shift
flags=()
[[ ! -e $file ]] || mapfile -t flags <"$file"
exec "$@" "${flags[@]}"
