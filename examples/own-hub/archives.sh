#!/bin/sh
# Packs the demo's models into archives/. The archives have neither times nor
# owners in them, so their digests are always those of duel.toml.
set -eu
cd "$(dirname "$0")"
models=${1:-../demo/models}
pack() {
    tar --create --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=0644 \
        --directory "$1" --file "$2" -- $(cd "$1" && echo *)
}
mkdir -p archives/demo
for model in king challenger; do
    pack "$models/$model" "archives/demo/$model.tar"
    sha256sum "archives/demo/$model.tar"
done
