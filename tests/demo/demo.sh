#!/usr/bin/env bash
# `make demo`: from a fresh clone to a ranked answer, without any service.
#
# The query is a committed JPEG (query.txt says what was done to the photograph), so that the demo needs no image tool.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

tests/services/setup.sh build
cache=${XDG_CACHE_HOME:-$HOME/.cache}/imgdex
photos=$cache/photos
tests/images/photos.sh "$photos"

echo "demo: building imgdex (the first time takes several minutes)" >&2
cargo build --release --locked
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
imgdex=$target/release/imgdex
IMGDEX_BIN=$imgdex models/fetch.sh

# The store stays, for the commands proposed at the end; each demo replaces it.
demo=$cache/demo
rm -rf "$demo"
mkdir -p "$demo"
store=sqlite:$demo/photos.db

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}
show "$imgdex" index --store "$store" "$photos"
show "$imgdex" search --store "$store" --output table -k 5 tests/demo/query.jpg

cat <<NEXT

The query is a cropped, resized and re-compressed copy of astronaut.png. Now try:

  $imgdex search --store $store --mode l2 $photos/motorcycle_left.png
  $imgdex index  --store $store YOUR/FOLDER
  $imgdex search --store $store YOUR/PHOTO.jpg
  $imgdex --help
NEXT
