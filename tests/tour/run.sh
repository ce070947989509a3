#!/usr/bin/env bash
# Runs the tour of README.md as written, and checks what it prints.
#
# The lines are those of the blocks marked ```sh in the section "Tour". One bash runs them all, in a folder that has what a fresh clone
# has, with data and configuration folders of its own.
#
# Environment:
#   IMGDEX_BIN            the program, which `cargo install` then takes instead of building one
#   IMGDEX_TEST_AMQP_URL, IMGDEX_TEST_ES_URL
#                         running servers, which the lines that start and stop servers then take; each needs the other
#   IMGDEX_MODEL_DIR      where the weights are, or go [default: the data folder]
#   IMGDEX_QUEUE, IMGDEX_EXCHANGE
#                         names that no other test uses [default: made up]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# shellcheck source=../steps.sh
source tests/steps.sh

root=$PWD clone=$work/imgdex stubs=$work/stubs
program=${IMGDEX_BIN:+$(realpath "$IMGDEX_BIN")} amqp=${IMGDEX_TEST_AMQP_URL:-} es=${IMGDEX_TEST_ES_URL:-}
es=${es%/}
if [[ -n $amqp && -z $es || -z $amqp && -n $es ]]; then
    echo "tour: IMGDEX_TEST_AMQP_URL and IMGDEX_TEST_ES_URL need each other" >&2
    exit 2
fi
models=${IMGDEX_MODEL_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/imgdex}
queue=${IMGDEX_QUEUE:-tour-$$} exchange=${IMGDEX_EXCHANGE:-tour-$$.exchange}
photos=${XDG_CACHE_HOME:-$HOME/.cache}/imgdex/photos

# tour_lines FILE: the commands, each block after a line that says where it stands.
tour_lines() {
    awk '
        /^## / { tour = $0 == "## Tour" }
        tour && /^```sh$/ { block = 1; printf "echo \"== README.md, line %d\"\n", NR; next }
        /^```/ { block = 0 }
        block' "$1"
}

# script PATH: an executable whose lines are standard input.
script() {
    { echo '#!/usr/bin/env bash'; echo 'set -euo pipefail'; cat; } >"$1"
    chmod +x "$1"
}

make_clone() {
    local entry
    mkdir -p "$clone/tests/images"
    for entry in * tests/* tests/images/*; do
        case $entry in
            target | tests | tests/images | tests/images/photos.sh) ;;
            *) ln -s "$root/$entry" "$clone/$entry" ;;
        esac
    done
    # Downloaded once for all runs, and for `make demo`.
    script "$clone/tests/images/photos.sh" <<END
'$root/tests/images/photos.sh' '$photos'
cp -R '$photos' "\$1"
END
}

# The tour's servers are those that run already: `start` only writes down where they are.
take_servers() {
    rm "$clone/tests/services"
    mkdir "$clone/tests/services"
    script "$clone/tests/services/setup.sh" <<<'exit'
    local name url
    while read -r name url; do
        script "$clone/tests/services/$name.sh" <<END
[[ \$1 == start ]] || exit 0
mkdir -p "\$2"
echo '$url' | tee "\$2/url"
END
    done <<<"rabbitmq $amqp
elasticsearch $es"
}

# `cargo install` installs into a folder of the tour: the program that is there, else the one that it builds.
redirect_cargo() {
    local cargo home=${CARGO_HOME:-$HOME/.cargo}
    cargo=$(command -v cargo || true)
    export CARGO_HOME=$work/cargo
    mkdir -p "$CARGO_HOME/bin" "$stubs"
    PATH=$stubs:$PATH
    script "$stubs/cargo" <<END
if [[ \$1 == install && -n '$program' ]]; then
    exec ln -s '$program' '$CARGO_HOME/bin/imgdex'
fi
[[ \$1 != install ]] || set -- "\$@" --root '$CARGO_HOME'
CARGO_HOME='$home' CARGO_TARGET_DIR='$root/target' exec '$cargo' "\$@"
END
}

# A port below those that the kernel gives to outgoing connections.
free_port() {
    python3 -c '
import random, socket
while True:
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port := random.randrange(10000, 30000)))
        except OSError:
            continue
        print(port)
        break'
}

forget_index() {
    local path
    for path in photos-v1 _index_template/imgdex-photos; do
        curl -sS -m 20 -o /dev/null -X DELETE "$es/$path" || true
    done
}

tour() {
    cd "$clone"
    # In the foreground, or it would make a process group that steps.sh does not know.
    timeout --foreground 540 bash -euo pipefail "$work/tour.sh" | tee "$work/output"
}

make_clone
[[ -z $es ]] || { take_servers; forget_index; }
redirect_cargo
tour_lines README.md >"$work/tour.sh"

# No setting of the caller counts.
unset "${!IMGDEX_@}"
export IMGDEX_MODEL_DIR=$models IMGDEX_QUEUE=$queue IMGDEX_EXCHANGE=$exchange
export XDG_DATA_HOME=$work/data XDG_CONFIG_HOME=$work/config
PORT=$(free_port)
export PORT

step tour tour
[[ -z $es ]] || forget_index
step check python3 tests/tour/check.py README.md "$work/output"
