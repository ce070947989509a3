#!/usr/bin/env bash
# setup.sh WHAT...: checks that the tools for each WHAT are there. As root on Debian it installs the missing packages; as an
# ordinary user it names them, with the command to install them, and fails.
#
#   build     compile the program, fetch weights and photographs
#   lint      rustfmt and clippy
#   services  RabbitMQ and Elasticsearch for tests
#   images    the emoji sets, from npm
#   bench     a Python environment
#   fuzz      cargo-fuzz
#   aarch64   compile for aarch64 and run that under emulation
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

log() { echo "setup: $*" >&2; }
die() { log "$*"; exit 1; }

packages=()
# need PACKAGE COMMAND...: the Debian package is missing unless the command succeeds.
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || packages+=("$package")
}

# Rust does not come from Debian: bookworm's is too old for this crate.
check_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    command -v cargo >/dev/null ||
        die "cargo is missing: install Rust $wanted or newer from https://rustup.rs (and have ~/.cargo/bin in PATH)"
    found=$(cargo --version | cut -d' ' -f2)
    [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1) == "$wanted" ]] ||
        die "cargo is $found, but $wanted or newer is needed: rustup update stable"
}

check_component() {
    cargo "$1" --version >/dev/null 2>&1 && return
    command -v rustup >/dev/null || die "cargo $1 is missing: install the component $2 of your Rust tool chain"
    log "adding the Rust component $2"
    rustup component add "$2" >&2
}

check_target() {
    command -v rustup >/dev/null || die "rustup is missing: the Rust tool chain needs the target $1"
    rustup target list --installed | grep -qx "$1" && return
    log "adding the Rust target $1"
    rustup target add "$1" >&2
}

check_cargo_fuzz() {
    cargo fuzz --version >/dev/null 2>&1 && return
    log "installing cargo-fuzz"
    cargo install --locked cargo-fuzz@0.13.2 >&2
}

install() {
    local missing
    missing=$(printf '%s\n' "${packages[@]}" | sort -u | xargs)
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        log "missing packages: $missing"
        die "install them first: sudo apt-get install $missing"
    fi
    log "installing: $missing"
    local get=(env DEBIAN_FRONTEND=noninteractive apt-get -y -qq)
    # shellcheck disable=SC2086 # a list of words
    if ! "${get[@]}" install --no-install-recommends $missing >&2; then
        log "not found or outdated in the package lists: updating them"
        "${get[@]}" update >&2
        "${get[@]}" install --no-install-recommends $missing >&2
    fi
}

(($#)) || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
for what; do
    case $what in
        build)
            check_rust
            need gcc cc --version
            need libc6-dev test -e /usr/include/stdlib.h
            # The vector code of the JPEG decoder; without it the build succeeds, and JPEG is decoded more slowly.
            need nasm nasm -v
            need curl curl --version
            need ca-certificates test -s /etc/ssl/certs/ca-certificates.crt
            need unzip unzip -v
            need python3 python3 --version
            need python3-pip python3 -m pip --version
            ;;
        aarch64)
            check_rust
            check_target aarch64-unknown-linux-musl
            need qemu-user-static test -x /usr/bin/qemu-aarch64-static
            ;;
        lint)
            check_rust
            check_component fmt rustfmt
            check_component clippy clippy
            ;;
        services)
            # Only files are taken from the package; its own service, which installing it may start, is not used.
            need rabbitmq-server test -x /usr/lib/rabbitmq/bin/rabbitmq-server
            need default-jre-headless java -version
            need maven mvn --version
            need unzip unzip -v
            need curl curl --version
            ;;
        images) need npm npm --version ;;
        bench)
            need python3 python3 --version
            need python3-venv python3 -c 'import ensurepip, venv'
            ;;
        fuzz)
            check_rust
            need g++ c++ --version
            need nasm nasm -v
            check_cargo_fuzz
            ;;
        *) die "nothing known about $what" ;;
    esac
done
((${#packages[@]} == 0)) || install
