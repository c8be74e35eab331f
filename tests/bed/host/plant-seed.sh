#!/usr/bin/env bash
# plant-seed.sh SEED DISK: give the disk of a new node the images of a seed. Layers
# are never written to, so they are hard links and cost neither time nor space;
# the databases are written to and are copied.
set -euo pipefail
seed=$1 disk=$2
mkdir -p "$disk"
cp -al "$seed/containerd" "$disk/var-lib-containerd"
(cd "$seed/containerd" && find . -name '*.db' -exec cp --remove-destination --parents {} "$disk/var-lib-containerd/" \;)
cp -a "$seed/images" "$disk/images"
