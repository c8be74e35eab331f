#!/usr/bin/env bash
# images.sh: build the bed's images that are not in the cache yet, and print the
# path of each one's tar (docker-archive). The key in a tar's name covers what is
# in the image.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/bed/settings.sh
. "$here/../settings.sh"

mkdir -p "$BED_IMAGE_TARS"
exec 9>"$BED_IMAGE_TARS/.lock"
flock 9

# image NAME VERSION CONTENT FILL: make localhost/NAME:VERSION from
# images/NAME/Dockerfile. CONTENT identifies what `FILL DIRECTORY` will put into
# the directory that the Dockerfile copies from.
image() {
  local name=$1 version=$2 content=$3 fill=$4 key tar context
  key=$({ cat "$BED_SOURCE/images/$name/Dockerfile" "$here/images.sh" && echo "$content"; } | sha256sum | cut -c1-12)
  tar=$BED_IMAGE_TARS/$name-$version-$key.tar
  if [[ ! -e $tar ]]; then
    say "building image localhost/$name:$version"
    context=$BED_IMAGE_TARS/.context
    rm -rf "$context" "$tar.unfinished"
    mkdir "$context"
    "$fill" "$context"
    # The same content gives the same image: no time of the build in it.
    "$here/buildah.sh" bud --quiet --isolation chroot --timestamp 0 -f "$BED_SOURCE/images/$name/Dockerfile" \
      -t "localhost/$name:$version" "$context" >/dev/null
    "$here/buildah.sh" push --quiet "localhost/$name:$version" "docker-archive:$tar.unfinished:localhost/$name:$version"
    mv "$tar.unfinished" "$tar"
    rm -rf "$context"
  fi
  echo "$tar"
}

busybox=$(command -v busybox)
fill_pause() { cp "$busybox" "$1/pause"; }
fill_busybox() {
  local program
  mkdir -p "$1"/{bin,etc,root,var} && mkdir -m 1777 "$1/tmp"
  cp "$busybox" "$1/bin/busybox"
  for program in $("$busybox" --list); do
    [[ $program == busybox ]] || ln -s busybox "$1/bin/$program"
  done
  echo 'root:x:0:0:root:/root:/bin/sh' >"$1/etc/passwd"
  echo 'root:x:0:' >"$1/etc/group"
}
fill_etcd() {
  mkdir -p "$1/usr/local/bin" && mkdir -m 1777 "$1/tmp"
  find "$etcd" -maxdepth 1 -type f -exec cp {} "$1/usr/local/bin/" \;
  [[ ! -e $etcd/libraries ]] || cp -r "$etcd/libraries/." "$1/"
}

busybox_sum=$(sha256sum <"$busybox")
image pause 1 "$busybox_sum" fill_pause
image busybox 1 "$busybox_sum" fill_busybox
for module in "${BED_ETCDS[@]}"; do
  etcd=$(program_dir "$module")
  [[ -e $etcd ]] || continue # an optional one; build.sh has said so
  image etcd "$(etcd_version "$module")" "$etcd" fill_etcd
done
