#!/usr/bin/env bash
# emoji.sh DEST VENDOR...: the 64-pixel PNGs of emoji-datasource-VENDOR (npm) in DEST/VENDOR, about 3,700 each.
# VENDOR: apple, google, twitter, facebook. The same file name is the same emoji in each vendor's drawing, which makes a
# retrieval truth of real scale. The drawings belong to their vendors: they are fetched for tests and never committed.
set -euo pipefail

version=16.0.0
(($# >= 2)) || { echo "Usage: $0 DEST apple|google|twitter|facebook..." >&2; exit 2; }
dest=$1
shift
partial=
trap 'rm -rf "$partial"' EXIT
for vendor; do
    case $vendor in
        apple | google | twitter | facebook) ;;
        *) echo "emoji: no vendor $vendor: apple, google, twitter or facebook" >&2; exit 2 ;;
    esac
    folder=$dest/$vendor
    # Folders appear by a rename only, so one that exists is complete.
    if [[ -d $folder ]]; then
        echo "emoji: $folder is there" >&2
        continue
    fi
    mkdir -p "$dest"
    partial=$(mktemp -d "$dest/.$vendor.XXXXXX")
    echo "emoji: fetching emoji-datasource-$vendor $version from npm" >&2
    npm pack --silent --pack-destination "$partial" "emoji-datasource-$vendor@$version" >/dev/null
    mkdir "$partial/png"
    tar -xzf "$partial/emoji-datasource-$vendor-$version.tgz" -C "$partial/png" --strip-components=4 "package/img/$vendor/64"
    mv -T "$partial/png" "$folder"
    rm -rf "$partial"
    echo "emoji: $(find "$folder" -name '*.png' | wc -l) images in $folder" >&2
done
