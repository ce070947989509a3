#!/usr/bin/env bash
# The embedded store's search, beside numpy, faiss and what the memory can give. SCAN_COUNT is the number of vectors.
set -euo pipefail

cargo build --release --locked --example scan_bench
# Its store lies in IMGDEX_BENCH_TMP, and goes with it.
TMPDIR=$IMGDEX_BENCH_TMP python3 tests/bench/scan_peers.py "$(dirname "$IMGDEX_BIN")/examples/scan_bench" "${SCAN_COUNT:-100000}"
