#!/usr/bin/env bash
# A private RabbitMQ for tests, from the Debian package: rabbitmq.sh start|stop|restart DIR.
# DIR/url is amqp://guest:guest@127.0.0.1:PORT/%2f, DIR/management_url the management API (guest:guest).
# DIR/advanced.config, where there is one, is read too, at each start.
SERVICE=rabbitmq
PORT_NAMES=(amqp management dist epmd)
START_SECONDS=200
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Not /usr/sbin/rabbitmq-server: that wrapper insists on root or the user rabbitmq, and on /var/lib/rabbitmq.
server=/usr/lib/rabbitmq/bin/rabbitmq-server

check_tools() {
    [[ -x $server ]] || die "$server is missing: apt-get install rabbitmq-server"
    command -v curl >/dev/null || die "curl is missing: apt-get install curl"
}

configure() {
    # Heartbeat: a dead connection is noticed in 20 s rather than two minutes. Statistics: tests poll the management API.
    cat >"$DIR/etc/rabbitmq.conf" <<CONF
listeners.tcp.local = 127.0.0.1:${port[amqp]}
management.tcp.ip = 127.0.0.1
management.tcp.port = ${port[management]}
loopback_users.guest = true
heartbeat = 10
collect_statistics_interval = 1000
disk_free_limit.absolute = 50MB
log.file.level = info
CONF
    # Erlang looks up localhost again and again, as IPv6 too, which asks the name server where /etc/hosts has no such line: seconds lost
    # at each start and stop if that one does not answer.
    echo '{host, {127,0,0,1}, ["localhost"]}. {lookup, [file]}.' >"$DIR/etc/inetrc"
    echo '[rabbitmq_management].' >"$DIR/etc/enabled_plugins"
}

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# An own epmd in the foreground: the machine's shared one would outlive the test, and couple instances to each other.
launch_epmd() {
    spawn "$DIR/log/epmd.log" epmd -port "${port[epmd]}" -address 127.0.0.1
    local deadline=$((SECONDS + 10))
    until port_open "${port[epmd]}"; do
        kill -0 "$leader" 2>/dev/null || return 1
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

launch() {
    launch_epmd || return 1
    # Whatever is not set here would be looked up in /etc/rabbitmq and /var/lib/rabbitmq.
    # +sbwt: idle schedulers sleep instead of spinning, on machines that compile at the same time.
    spawn "$DIR/log/console.log" \
        ERL_INETRC="$DIR/etc/inetrc" ERL_EPMD_PORT="${port[epmd]}" ERL_EPMD_ADDRESS=127.0.0.1 \
        RABBITMQ_NODENAME=imgdex@localhost RABBITMQ_DIST_PORT="${port[dist]}" \
        RABBITMQ_CONF_ENV_FILE="$DIR/etc/none" RABBITMQ_ADVANCED_CONFIG_FILE="$DIR/advanced.config" \
        RABBITMQ_CONFIG_FILE="$DIR/etc/rabbitmq.conf" RABBITMQ_ENABLED_PLUGINS_FILE="$DIR/etc/enabled_plugins" \
        RABBITMQ_MNESIA_BASE="$DIR/data" RABBITMQ_GENERATED_CONFIG_DIR="$DIR/run/config" \
        RABBITMQ_SCHEMA_DIR="$DIR/run/schema" RABBITMQ_LOG_BASE="$DIR/log" RABBITMQ_PID_FILE="$DIR/run/pid" \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}" \
        "$server"
}

# The broker sends a method frame (type 1) as answer to the protocol header, and the management API works.
answers() {
    local frame_type
    frame_type=$(
        exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/${port[amqp]}" || exit
        printf 'AMQP\0\0\011\001' >&3
        head -c 1 <&3 | od -An -tu1
    ) || return 1
    [[ ${frame_type// /} == 1 ]] &&
        curl -fsS -m 5 -o "$DIR/tmp/overview.json" -u guest:guest "http://127.0.0.1:${port[management]}/api/overview" 2>/dev/null
}

publish_files() {
    cp "$DIR/run/pid" "$DIR/pid"
    echo "http://127.0.0.1:${port[management]}" >"$DIR/management_url"
    echo "amqp://guest:guest@127.0.0.1:${port[amqp]}/%2f" >"$DIR/url"
}

main "$@"
