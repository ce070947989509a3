#!/usr/bin/env bash
# `make bench`: run.sh [NAME...] runs the listed benchmarks, all of them by default. Figures go to stdout.
#
# A benchmark is an executable tests/bench/NAME.sh or NAME.py with a line below. It finds in its environment
#   IMGDEX_BIN        the release binary
#   IMGDEX_BENCH_TMP  an empty folder, removed afterwards
#   PATH              with a Python that has the packages of requirements.txt
# and starts the services that it needs itself, with tests/services, in IMGDEX_BENCH_TMP.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

benchmarks=(
    bulk   # documents per second into Elasticsearch, beside the Python client
    vgg16  # features per second, beside stock Candle, onnxruntime, OpenVINO, ncnn and MNN
    decode # CPU time to decode an image, in processes and on threads, beside Pillow
    flow   # from the queue to acknowledged documents: what it costs beside the network
    scan   # the embedded store's search, beside numpy, faiss and the memory's bandwidth
    recall # the emoji retrieval check, with the whole set
)

cache=${XDG_CACHE_HOME:-$HOME/.cache}/imgdex
(($#)) || set -- "${benchmarks[@]}"
for name; do
    [[ " ${benchmarks[*]} " == *" $name "* ]] || { echo "bench: no $name; there are: ${benchmarks[*]:-none}" >&2; exit 2; }
done

tests/services/setup.sh build bench services images

# The folder's name changes with the requirements, and it appears only when complete.
venv=$cache/bench-python-$(sha256sum tests/bench/requirements.txt | cut -c1-12)
if [[ ! -f $venv/complete ]]; then
    echo "bench: making the Python environment $venv" >&2
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" --disable-pip-version-check install -q -r tests/bench/requirements.txt >&2
    touch "$venv/complete"
fi

cargo build --release --locked
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
export IMGDEX_BIN=$target/release/imgdex PATH=$venv/bin:$PATH
models/fetch.sh

# shellcheck source=../steps.sh
source tests/steps.sh

failed=()
for name; do
    export IMGDEX_BENCH_TMP=$work/$name
    mkdir "$IMGDEX_BENCH_TMP"
    script=(tests/bench/"$name".*)
    step "$name" "${script[0]}" || failed+=("$name")
done
((${#failed[@]} == 0)) || { echo "bench: failed: ${failed[*]}" >&2; exit 1; }
