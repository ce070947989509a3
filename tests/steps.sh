# shellcheck shell=bash
# For scripts that run long steps beside servers: `step NAME COMMAND...` runs one and prints its time; whatever ends the
# script, a signal included, first ends the running step with all its processes, then the servers, then removes $work.
# Sourced from the repository's root.

work=$(realpath "$(mktemp -d)")
# Servers started by root run as another user, who must be able to pass.
chmod 755 "$work"
# What the steps leave behind lies in here too: temporary folders, and the state of servers that tests start themselves.
export TMPDIR=$work/tmp
mkdir -m 1777 "$TMPDIR"

# Each background job gets its own process group, so that one kill reaches a step with everything that it started. And bash runs a
# trap only between foreground commands, but at once while it waits for a job.
set -m

# A SIGKILL runs no trap. This process sees this script end and does the rest.
(
    trap '' INT HUP
    tail --pid=$$ -f /dev/null
    [[ ! -d $work ]] || { tests/services/stop-all.sh "$work" && rm -rf "$work"; }
) </dev/null >/dev/null 2>&1 &
watcher=$!

jobs_started=()

# background COMMAND...: a job that ends with this script; its pid is in $!.
background() {
    "$@" &
    jobs_started+=($!)
}

end_jobs() {
    local job deadline=$((SECONDS + 10))
    for job in "${jobs_started[@]}"; do kill -TERM -- "-$job" 2>/dev/null || true; done
    for job in "${jobs_started[@]}"; do
        while kill -0 -- "-$job" 2>/dev/null; do
            ((SECONDS < deadline)) || { kill -KILL -- "-$job" 2>/dev/null || true; break; }
            sleep 0.1
        done
    done
}

cleanup() {
    local status=$?
    trap '' INT TERM HUP
    trap - EXIT
    end_jobs
    tests/services/stop-all.sh "$work" || true
    rm -rf "$work"
    kill -KILL -- "-$watcher" 2>/dev/null || true
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

step() {
    local name=$1 begun=$SECONDS status=0
    shift
    printf '== %s\n' "$name" >&2
    background "$@"
    wait $! || status=$?
    printf '== %s: %s after %s s\n' "$name" "$( ((status == 0)) && echo ok || echo "FAILED ($status)")" $((SECONDS - begun)) >&2
    return "$status"
}
