#!/usr/bin/env bash
# buildah.sh ARGS...: buildah with its storage in the bed's cache instead of the
# system's. vfs: needs no mount, and the images are small.
set -euo pipefail
# shellcheck source=tests/bed/settings.sh
. "$(dirname "$(readlink -f "$0")")/../settings.sh"
exec buildah --root "$BED_BUILDAH/root" --runroot "$BED_BUILDAH/runroot" --storage-driver vfs "$@"
