#!/usr/bin/env bash
# `make test`: run.sh [lint|doc|aarch64|test|guarantees|soak|gpu]; without an argument the first four.
#
# Environment: IMGDEX_TEST_AMQP_URL and IMGDEX_TEST_ES_URL point at running servers; without them own ones are started and, whatever
# ends this script, stopped. ES=8.16.3 takes the older Elasticsearch. TEST_ARGS goes to `cargo test` as it is (a filter, -- --nocapture).
# IMGDEX_SOAK_SECONDS is how long the soak lasts (600; as one of the tests 120), IMGDEX_SOAK_SEED which schedule (drawn; a fixed one).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

what=${1:-all}
case $what in
    lint) needs=(lint) ;;
    doc) needs=(build) ;;
    aarch64) needs=(aarch64) ;;
    test) needs=(build services images) ;;
    guarantees) needs=(build services) ;;
    soak) needs=(build services) ;;
    gpu) needs=(build lint) ;;
    all) needs=(build lint services images) ;;
    *) sed -n '2s/^# //p' "$0" >&2; exit 2 ;;
esac

# shellcheck source=steps.sh
source tests/steps.sh

# One set for every step: other features or another profile would compile all dependencies once more. The features for GPUs need
# compilers for them.
cargo_flags=(--locked --features stub-model)

lint() {
    step format cargo fmt --check
    step clippy cargo clippy "${cargo_flags[@]}" --all-targets -- -D warnings
}

doc() {
    step doc env RUSTDOCFLAGS=-Dwarnings cargo doc "${cargo_flags[@]}" --no-deps --document-private-items
}

# The portable kernel on the CPUs that have no kernel of their own. Static, so that neither linker nor libraries of aarch64 are needed.
aarch64() {
    step aarch64 env CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUNNER=/usr/bin/qemu-aarch64-static \
        cargo test --locked --target aarch64-unknown-linux-musl --manifest-path tests/aarch64/Cargo.toml --target-dir target/aarch64
}

# The servers start while the tests compile. Their URLs are in files by the time that start_servers is through.
rabbitmq_dir='' elasticsearch_dir='' starting=()
start_servers() {
    if [[ -z ${IMGDEX_TEST_AMQP_URL:-} ]]; then
        rabbitmq_dir=$work/rabbitmq
        background tests/services/rabbitmq.sh start "$rabbitmq_dir" >/dev/null
        starting+=($!)
    fi
    if [[ -z ${IMGDEX_TEST_ES_URL:-} ]]; then
        elasticsearch_dir=$work/elasticsearch
        background tests/services/elasticsearch.sh start "$elasticsearch_dir" >/dev/null
        starting+=($!)
    fi
}

await_servers() {
    local pid
    for pid in "${starting[@]}"; do wait "$pid"; done
    if [[ -n $rabbitmq_dir ]]; then
        IMGDEX_TEST_AMQP_URL=$(<"$rabbitmq_dir/url") IMGDEX_TEST_MANAGEMENT_URL=$(<"$rabbitmq_dir/management_url")
        export IMGDEX_TEST_MANAGEMENT_URL
    fi
    [[ -z $elasticsearch_dir ]] || IMGDEX_TEST_ES_URL=$(<"$elasticsearch_dir/url")
    export IMGDEX_TEST_AMQP_URL IMGDEX_TEST_ES_URL
}

recall() {
    local images=${XDG_CACHE_HOME:-$HOME/.cache}/imgdex/emoji
    tests/images/emoji.sh "$images" apple google
    python3 tests/bench/retrieval.py --images "$images" --binary "$1" --amqp "$IMGDEX_TEST_AMQP_URL" \
        --es "$IMGDEX_TEST_ES_URL" --models vgg16 --stored 200 --queries 50 --check
}

tests() {
    start_servers
    step compile cargo test "${cargo_flags[@]}" --no-run
    local target
    target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    step weights env IMGDEX_BIN="$target/debug/imgdex" models/fetch.sh
    await_servers
    # shellcheck disable=SC2086 # words, as the caller wrote them
    step tests cargo test "${cargo_flags[@]}" ${TEST_ARGS:-}
    # A part of the set of `make bench`: from the queue to searches with the real network.
    [[ -n ${TEST_ARGS:-} ]] || step recall recall "$target/debug/imgdex"
}

# The tests of the numbered guarantees with their full counts, one after the other: beside another test no rate means anything.
guarantees() {
    start_servers
    step compile cargo test "${cargo_flags[@]}" --no-run
    await_servers
    local status=0
    export IMGDEX_TEST_FULL=1 IMGDEX_TEST_REPORT=$work/report
    # shellcheck disable=SC2086 # words, as the caller wrote them
    step guarantees cargo test "${cargo_flags[@]}" --test it ${TEST_ARGS:-guarantees::} -- --test-threads=1 || status=$?
    echo "guarantee  test: what it counted"
    sort -s -n -k1,1 "$IMGDEX_TEST_REPORT" | awk -F'\t' '{ sub(/^guarantees::/, "", $2); printf "%9s  %s: %s\n", $1, $2, $3 }'
    return "$status"
}

# It starts servers of its own.
soak() {
    local seconds=${IMGDEX_SOAK_SECONDS:-600} seed=${IMGDEX_SOAK_SEED:-$SRANDOM}
    step compile cargo test "${cargo_flags[@]}" --test it --no-run
    step "soak, SECONDS=$seconds SEED=$seed" env IMGDEX_SOAK_SECONDS="$seconds" IMGDEX_SOAK_SEED="$seed" \
        cargo test "${cargo_flags[@]}" --test it -- --nocapture guarantees::soak
}

# Whether the program compiles for the GPU of this system; needs nvcc of CUDA 13.0, or macOS.
gpu() {
    local feature=cuda
    [[ $(uname) != Darwin ]] || feature=metal
    step gpu cargo clippy --locked --features "$feature" -- -D warnings
}

step setup tests/services/setup.sh "${needs[@]}"
case $what in
    lint) lint ;;
    doc) doc ;;
    aarch64) aarch64 ;;
    test) tests ;;
    guarantees) guarantees ;;
    soak) soak ;;
    gpu) gpu ;;
    all)
        lint
        doc
        # The one check that is left out where its tools cannot be had: all of this runs on machines without emulator, too.
        if tests/services/setup.sh aarch64; then aarch64; else echo "== aarch64: LEFT OUT, see above" >&2; fi
        tests
        ;;
esac
