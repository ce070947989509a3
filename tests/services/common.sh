# shellcheck shell=bash
# What rabbitmq.sh and elasticsearch.sh share: a private instance of a server whose whole state lives in one folder.
#
# A service script sets SERVICE, PORT_NAMES (of the ports that it needs) and START_SECONDS, and defines
#   check_tools      dies with the missing package's name
#   configure        writes DIR/etc from DIR and ${port[NAME]}
#   launch           starts the server in the background with `spawn`; `leader` is then its pid
#   answers          succeeds once a client can really work with the server
#   publish_files    writes url and its like into DIR, when the server is ready
# and ends in `main "$@"`.
#
# DIR holds: ports, url, pid (of the server itself), etc/, data/, log/, run/ and tmp/.
#
# Every process of an instance carries IMGDEX_TEST_SERVICE=<service>:<DIR> in its environment. `stop` finds the
# processes by that mark, so it never needs to trust a pid file that may be stale, and it finds daemonised children too.

set -euo pipefail
# A background job of a script must not become the leader of a group before setsid makes it one of a session.
set +m

log() { printf '%s: %s\n' "$SERVICE" "$*" >&2; }
die() { log "$*"; exit 1; }

# Servers do not run as root. `nobody` exists on every Debian system, so nothing has to be created or removed.
service_user=nobody
as_service_user() {
    if ((EUID == 0)); then
        setpriv --reuid="$service_user" --regid="$(id -g "$service_user")" --clear-groups -- "$@"
    else
        "$@"
    fi
}

# spawn LOG VARIABLE=VALUE... COMMAND...: a background process in its own session (Ctrl-C of the terminal does not
# reach it), with a clean environment, so that the caller's RABBITMQ_*, ERL_* or JAVA_* settings do not leak in.
working_folder=/
spawn() {
    local log_file=$1
    shift
    local drop=()
    if ((EUID == 0)); then
        drop=(setpriv --reuid="$service_user" --regid="$(id -g "$service_user")" --clear-groups --)
    fi
    # The caller's folder may be unreadable for the service user, and must be removable while the server runs.
    (cd "$working_folder" && exec setsid "${drop[@]}" env -i \
        IMGDEX_TEST_SERVICE="$SERVICE:$DIR" HOME="$DIR/run" LANG=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        "$@") </dev/null >>"$log_file" 2>&1 &
    leader=$!
}

# The pids of this instance, one a line.
instance_pids() {
    local file
    # Processes come and go while grep reads; those that vanished are not ours to report.
    { grep -lzxF -- "IMGDEX_TEST_SERVICE=$SERVICE:$DIR" /proc/[0-9]*/environ 2>/dev/null || true; } |
        while IFS=/ read -r _ _ file _; do echo "$file"; done
}

signal_instance() {
    local pids
    mapfile -t pids < <(instance_pids)
    ((${#pids[@]} == 0)) || kill -s "$1" "${pids[@]}" 2>/dev/null || true
}

# gone SECONDS: waits until no process of the instance is left.
gone() {
    local deadline=$((SECONDS + $1))
    while [[ -n $(instance_pids) ]]; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

stop() {
    if [[ -n $(instance_pids) ]]; then
        log "stopping the instance in $DIR"
        signal_instance TERM
        if ! gone 30; then
            log "still there after 30 s; killing it"
            signal_instance KILL
            gone 10 || die "could not end the processes $(instance_pids | xargs)"
        fi
    fi
    rm -f "$DIR/url" "$DIR/pid"
}

# free_ports N: N distinct ports of 127.0.0.1 that can be bound now. They are taken from below the range that the kernel gives to
# outgoing connections (32768 and up): a client that retries a stopped broker's port in that range can connect to itself,
# and any connection of the machine can take the port while its server restarts.
free_ports() {
    perl -MSocket -e '
        my @held;
        for my $try (1 .. 1000) {
            last if @held == $ARGV[0];
            my $port = 10000 + int rand 20000;
            socket my $s, PF_INET, SOCK_STREAM, 0 or die "socket: $!";
            bind($s, sockaddr_in($port, INADDR_LOOPBACK)) or next;
            push @held, $s;
            print "$port\n";
        }
        @held == $ARGV[0] or die "no free port found\n";' "$1"
}

choose_ports() {
    local numbers name i=0
    numbers=$(free_ports "${#PORT_NAMES[@]}") || die "found no free port on 127.0.0.1"
    mapfile -t numbers <<<"$numbers"
    for name in "${PORT_NAMES[@]}"; do
        echo "$name=${numbers[i++]}"
    done >"$DIR/ports"
}

# shellcheck disable=SC2034 # the service scripts read it
declare -A port=()
read_ports() {
    local name number
    # shellcheck disable=SC2034
    while IFS='=' read -r name number; do port[$name]=$number; done <"$DIR/ports"
}

# Port clashes are the only failure worth another try: two starts at the same moment may choose the same port.
port_clash() { grep -rqiE 'eaddrinuse|address already in use|BindException' "$DIR/log" 2>/dev/null; }

show_logs() {
    local file
    for file in "$DIR"/log/*.log; do
        [[ -s $file ]] || continue
        log "last lines of $file:"
        tail -n 20 "$file" >&2
    done
}

wait_ready() {
    local deadline=$((SECONDS + START_SECONDS))
    until answers; do
        kill -0 "$leader" 2>/dev/null || return 1
        ((SECONDS < deadline)) || { log "no answer within $START_SECONDS s"; return 1; }
        sleep 0.2
    done
}

make_folders() {
    mkdir -p "$DIR"/{etc,data,log,run,tmp}
    if ((EUID == 0)); then
        chown -R "$service_user" "$DIR"/{data,log,run,tmp}
        chmod 755 "$DIR" "$DIR/etc"
        as_service_user test -x "$DIR" -a -w "$DIR/data" ||
            die "the user $service_user, as whom the server runs, cannot reach $DIR: chmod a+x its parent folders"
    fi
}

start() {
    if [[ -f $DIR/url && -n $(instance_pids) ]]; then
        read_ports
        if answers; then
            log "already running in $DIR"
            cat "$DIR/url"
            return
        fi
    fi
    check_tools
    stop
    make_folders
    # From here on an interrupted or failed start leaves no process behind.
    trap 'trap - EXIT; stop' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'exit 129' HUP

    # A folder that has been started before keeps its ports: clients of a restarted server find it again.
    local attempt keep_ports=
    [[ -s $DIR/ports ]] && keep_ports=yes
    for attempt in 1 2 3 4 5; do
        [[ -n $keep_ports ]] || choose_ports
        read_ports
        rm -f "$DIR"/log/*.log
        configure
        log "starting in $DIR on $(xargs <"$DIR/ports")"
        local begun=$SECONDS
        if launch && wait_ready; then
            publish_files
            trap - EXIT INT TERM HUP
            log "ready after $((SECONDS - begun)) s"
            cat "$DIR/url"
            return
        fi
        port_clash || break
        log "a port is taken (attempt $attempt)"
        stop
        # The ports of a restarted server may be taken for a moment only.
        [[ -z $keep_ports ]] || sleep 1
    done
    show_logs
    [[ -n $keep_ports ]] || rm -f "$DIR/ports"
    die "did not start"
}

usage() {
    cat >&2 <<USAGE
Usage: $0 start|stop|restart DIR
  start    a private $SERVICE with all its state in DIR; prints its URL (also in DIR/url). Started again, it has the same ports and state.
  stop     that instance only; no error if it does not run
  restart  stop and start
USAGE
    exit 2
}

main() {
    (($# == 2)) || usage
    DIR=$(realpath -m -- "$2")
    case $1 in
        start) start ;;
        stop) stop ;;
        restart)
            [[ -s $DIR/ports ]] || die "nothing was started in $DIR"
            stop
            start
            ;;
        *) usage ;;
    esac
}
