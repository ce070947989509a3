#!/usr/bin/env bash
# photos.sh DEST: 20 real photographs, PNG and JPEG, colour and grey, out of the scikit-image package on PyPI.
# Does nothing when DEST is complete. The images' sources and licences: skimage/data/_fetchers.py in the same wheel.
set -euo pipefail

(($# == 1)) || { echo "Usage: $0 DEST" >&2; exit 2; }
dest=$1

# The package's drawings, silhouettes and test patterns are left out.
photos=(astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png grass.png gravel.png
    hubble_deep_field.jpg ihc.png microaneurysms.png moon.png motorcycle_left.png motorcycle_right.png page.png retina.jpg rocket.jpg text.png)
version=0.26.0
wheel=scikit_image-$version-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl
sha256=74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af

complete() {
    local photo
    for photo in "${photos[@]}"; do
        [[ -s $dest/$photo ]] || return 1
    done
}
if complete; then
    echo "photos: $dest has all ${#photos[@]}" >&2
    exit
fi
[[ ! -e $dest ]] || { echo "photos: $dest exists but is not a complete set of photographs; remove it or name another folder" >&2; exit 1; }

mkdir -p "$(dirname "$dest")"
partial=$(mktemp -d "$dest.partial.XXXXXX")
trap 'rm -rf "$partial"' EXIT
echo "photos: fetching scikit-image $version (14 MB) from PyPI" >&2
# The wheel is only unzipped, so any platform and Python can take this one.
python3 -m pip --disable-pip-version-check download -q --no-deps --only-binary=:all: --python-version 3.11 \
    --implementation cp --abi cp311 --platform manylinux_2_28_x86_64 -d "$partial" "scikit-image==$version" >&2
echo "$sha256  $partial/$wheel" | sha256sum --check --quiet >&2
unzip -q -j "$partial/$wheel" "${photos[@]/#/skimage/data/}" -d "$partial/photos"
chmod 755 "$partial/photos"
mv -T "$partial/photos" "$dest"
echo "photos: ${#photos[@]} in $dest" >&2
