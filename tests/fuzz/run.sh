#!/usr/bin/env bash
# `make fuzz`: run.sh [TARGET] [SECONDS] looks for inputs that break a check; all targets, 600 s each, by default.
#              run.sh keep TARGET        adds to tests/fixtures/corpus the fewest inputs that reach all that was reached.
#
# What is found lies in tests/fuzz/corpus/TARGET, from which the next run goes on; an input that breaks a check, in
# tests/fuzz/artifacts/TARGET. To mend one: copy it to tests/fixtures/corpus/TARGET, see `make test` fail, mend the program.
#
# Works with a stable tool chain: coverage is counted by a pass of LLVM that needs no unstable flag, a sanitizer would.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

targets=(message bulk_answer guard decode)
# Without cfg(fuzzing), with which some crates skip checksums: what is tried is what runs.
cargo_flags=(--fuzz-dir tests/fuzz --sanitizer none --no-cfg-fuzzing)

# known TARGET
known() {
    [[ " ${targets[*]} " == *" $1 "* ]] || { echo "fuzz: no target $1; there are: ${targets[*]}" >&2; exit 2; }
}

# fuzz TARGET SECONDS
fuzz() {
    local longest=4096 seeds=("tests/fixtures/corpus/$1")
    if [[ $1 == decode ]]; then
        # Long enough for what costs much by repetition.
        longest=4194304
        seeds+=(tests/fixtures/images tests/fixtures/jpeg tests/fixtures/odd)
    fi
    mkdir -p "tests/fuzz/corpus/$1"
    printf '== %s\n' "$1" >&2
    cargo fuzz run "${cargo_flags[@]}" "$1" "tests/fuzz/corpus/$1" "${seeds[@]}" -- -max_total_time="$2" \
        -max_len=$longest -rss_limit_mb=512 -timeout=10 -dict="tests/fuzz/dictionaries/$1.dict" -print_final_stats=1
}

# keep TARGET: by the places in the code that are reached, not by how often, or there would be thousands; long ones are cut.
keep() {
    cargo fuzz run "${cargo_flags[@]}" "$1" "tests/fixtures/corpus/$1" "tests/fuzz/corpus/$1" -- \
        -set_cover_merge=1 -use_counters=0 -max_len=2048
}

tests/services/setup.sh fuzz
if [[ ${1:-} == keep ]]; then
    known "${2:?a target is needed}"
    keep "$2"
    exit
fi
[[ -z ${1:-} ]] || { known "$1"; targets=("$1"); }
for target in "${targets[@]}"; do fuzz "$target" "${2:-600}"; done
