#!/usr/bin/env bash
# What the scripts of this folder share; it is sourced. Each installs one server into a folder, puts
# it on loopback with a synthetic model, prints its address, and stops it at the end:
#
#   ci/servers/NAME.sh [FOLDER [ARGUMENT_OF_THE_SERVER…]] [-- COMMAND…]
#
# COMMAND gets the address for every {url} among its words, and its exit status is the script's.
# Without a command the server runs until a signal. What is in FOLDER (default:
# target/servers/NAME) is not installed again. Exit status 77: this server cannot be had here, and
# the last line says why.
#
# SHAPE (default: mini) is the model, PORT (default: a free one) the port, THREADS (default: all)
# the threads of the server, CANDLEMARK the binary that writes the model.
set -euo pipefail

name=$(basename "$0" .sh)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=$root/target/servers/$name
server_arguments=() command=()
if [ $# -gt 0 ] && [ "$1" != -- ]; then folder=$1 && shift; fi
while [ $# -gt 0 ] && [ "$1" != -- ]; do server_arguments+=("$1") && shift; done
if [ $# -gt 0 ]; then shift && command=("$@"); fi
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
candlemark=${CANDLEMARK:-${CARGO_TARGET_DIR:-$root/target}/release/candlemark}
# shellcheck disable=SC2034 # Read by the script that sources this.
threads=${THREADS:-$(nproc)} shape=${SHAPE:-mini}

skip() { # REASON
    echo "SKIPPED $name: $1" >&2
    exit 77
}

install_step() { # WHAT COMMAND…: runs it with its output in a file
    echo "-- $name: $1" >&2
    if ! "${@:2}" >>"$folder/install.log" 2>&1; then
        tail -n 15 "$folder/install.log" >&2
        skip "$1 failed; $folder/install.log has everything"
    fi
}

new_venv() { # sets and makes $venv; fails if everything is installed there
    venv=$folder/venv
    command -v "${PYTHON:-python3}" >/dev/null || skip "no ${PYTHON:-python3}"
    [ ! -f "$folder/installed" ] || return 1
    rm -rf "$venv"
    install_step "a virtual environment" "${PYTHON:-python3}" -m venv "$venv"
}

pip_install() { # ARGUMENT…
    install_step "pip install $*" nice -n 5 "$venv/bin/pip" install --no-cache-dir -q "$@"
}

synthetic_model() { # SUFFIX: sets $model, a folder, or with the suffix .gguf a file
    model=$folder/$shape$1
    [ -e "$model" ] || "$candlemark" synth --shape "$shape" -o "$model" >&2
}

free_port() {
    python3 -c 'if True:
        import socket
        listener = socket.create_server(("127.0.0.1", 0))
        print(listener.getsockname()[1])'
}

stop() {
    # The server is the leader of its process group.
    [ -z "${server:-}" ] || kill -TERM -- "-$server" 2>/dev/null || return 0
    for _ in $(seq 100); do kill -0 -- "-$server" 2>/dev/null || return 0 && sleep 0.1; done
    kill -KILL -- "-$server" 2>/dev/null || true
}

serve() { # READY_PATH COMMAND…: starts the server on $port, prints its address, runs the command
    local log=$folder/server-$port.log url=http://127.0.0.1:$port ready=$1 status=0
    trap stop EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    setsid "${@:2}" "${server_arguments[@]}" >"$log" 2>&1 </dev/null &
    server=$!
    SECONDS=0
    until curl -sf -o /dev/null --max-time 5 "$url$ready"; do
        if ! kill -0 "$server" 2>/dev/null; then
            wait "$server" || status=$?
            tail -n 20 "$log" >&2
            # 132: SIGILL.
            if [ "$status" = 132 ] || grep -qiE 'illegal instruction|SIGILL' "$log"; then
                skip "an instruction that this CPU does not have"
            fi
            echo "$name ended with status $status before it was ready; $log" >&2
            exit 1
        fi
        if [ "$SECONDS" -gt "${READY_S:-600}" ]; then
            tail -n 20 "$log" >&2
            echo "$name is not ready after ${READY_S:-600} s; $log" >&2
            exit 1
        fi
        sleep 0.5
    done
    echo "$url"
    echo "-- $name: ready after $SECONDS s; log: $log" >&2
    if [ ${#command[@]} = 0 ]; then
        wait "$server" || status=$?
    else
        "${command[@]//\{url\}/$url}" || status=$?
    fi
    exit "$status"
}

port=${PORT:-$(free_port)}
