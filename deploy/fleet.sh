# Sourced by deploy/demo, deploy/bench and deploy/observability/cost: a broker, a steward and workers from a release build,
# and their end.
#
# Sets $folder (removed at the end, but for $folder/results and what else the caller makes in it), $bin, $broker,
# $steward, $workers and exports NATS_URL. The caller runs `trap stop_fleet EXIT`. There are $n_workers workers, which
# serve $models, and the caller may set both; they fetch the model from the broker if the caller sets $package too, its
# folder. A caller that sets $observe to yes keeps the user's settings of OpenTelemetry, and may run start_jaeger.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin="$root/target/release"
folder=
broker=
steward=
workers=()
jaeger=
models=mock,threshold
n_workers=2
package=
# A fleet of its own, whatever the user's is.
unset NATS_URL NATS_CREDS NATS_NKEY NATS_CA NATS_CERT NATS_KEY "${!SEGFLEET_@}"
[ "${observe:-no}" = yes ] || unset "${!OTEL_@}"

# Runs a command in a session of its own, so that Ctrl-C reaches the script alone, which then stops them in
# order.
in_background() {
    local log=$1
    shift
    setsid "$@" >"$log" 2>&1 </dev/null &
}

# Prints the port that the broker with this process id writes once it listens.
port_of() {
    local ports="$folder/broker/nats-server_$1.ports"
    for _ in $(seq 600); do
        if [ -s "$ports" ]; then
            sed -n 's|.*nats://127\.0\.0\.1:\([0-9]*\).*|\1|p' "$ports" | head -n 1
            return
        fi
        kill -0 "$1" 2>/dev/null || break
        sleep 0.05
    done
    echo "the broker did not start; its log:" >&2
    cat "$folder/broker/server.log" >&2
    return 1
}

# Builds, starts a broker on a free port in a temporary folder, sets it up, and starts a steward, and $n_workers workers
# with the arguments given.
start_fleet() {
    local server port
    server=$("$root/deploy/nats/find-server")
    [ -x "$bin/segfleet-worker" ] || echo "building; the first time takes some minutes" >&2
    cargo build --release --quiet --manifest-path "$root/Cargo.toml" --target-dir "$root/target"
    folder=$(mktemp -d "${TMPDIR:-/tmp}/segfleet.XXXXXX")
    mkdir "$folder/broker" "$folder/results"
    in_background "$folder/broker/server.log" "$server" -c "$root/deploy/nats/development.conf" \
        -a 127.0.0.1 -p -1 -sd "$folder/broker/store" --ports_file_dir "$folder/broker"
    broker=$!
    port=$(port_of "$broker")
    export NATS_URL=nats://127.0.0.1:$port
    "$bin/segfleet" setup >"$folder/broker/setup.log"
    [ -z "$package" ] || "$bin/segfleet" model push "$package"
    in_background "$folder/broker/steward.log" "$bin/segfleet" steward --name steward
    steward=$!
    local number
    for ((number = 1; number <= n_workers; number++)); do
        start_worker "worker-$number" "$@"
    done
}

# Starts a worker of this name, with the arguments given.
start_worker() {
    in_background "$folder/broker/$1.log" "$bin/segfleet-worker" run --model "$models" --name "$@"
    workers+=($!)
}

# Succeeds when something listens on this port.
listens() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Starts the Jaeger $1 on the ports that its variables choose, of which these are two, and waits until it listens.
start_jaeger() {
    local query=${JAEGER_QUERY_PORT:-16686} spans=${JAEGER_OTLP_HTTP_PORT:-4318}
    in_background "$folder/broker/jaeger.log" "$1" --config "$root/deploy/observability/jaeger/jaeger.yaml"
    jaeger=$!
    for _ in $(seq 600); do
        if listens "$query" && listens "$spans"; then
            return
        fi
        kill -0 "$jaeger" 2>/dev/null || break
        sleep 0.05
    done
    echo "Jaeger did not start; its log:" >&2
    cat "$folder/broker/jaeger.log" >&2
    return 1
}

# Waits until none of these processes is left; after 40 seconds, longer than a drain, kills what is.
end_of() {
    local process
    for process in "$@"; do
        timeout 40 tail --pid="$process" -f /dev/null || kill -9 "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
}

# Stops the workers, which finish what they have and tell the broker, and the steward; then the broker and
# Jaeger.
stop_fleet() {
    # A second Ctrl-C must not leave the half of it running.
    trap '' INT TERM
    [ -z "$steward" ] || kill "$steward" 2>/dev/null || true
    [ ${#workers[@]} -eq 0 ] || kill "${workers[@]}" 2>/dev/null || true
    end_of $steward "${workers[@]}"
    [ -z "$broker$jaeger" ] || kill $broker $jaeger 2>/dev/null || true
    end_of $broker $jaeger
    [ -z "$folder" ] || rm -rf "$folder/broker"
    # Stays when there are results.
    [ -z "$folder" ] || rmdir "$folder/results" "$folder" 2>/dev/null || true
}
