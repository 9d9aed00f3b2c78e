#!/usr/bin/env bash
# Run a command again while it ends in a way that a restart may help: bash launch/restart.sh TIMES COMMAND ...
# For the processes of a job that nobody else restarts (tpu_pod.sh, SSH): when one is lost all of them end, and meet
# again. Not restarted: 0 (done), 2 (bad input), 130 (Ctrl-C), and after a SIGTERM to this script.
set -uo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[0-9]+$ ]]; then
    echo "usage: restart.sh TIMES COMMAND ..." >&2
    exit 2
fi
times=$1 stopping=0 child=''
shift

stop() {
    stopping=1
    kill -TERM "$child" 2>/dev/null
}

trap stop TERM INT
for ((attempt = 0; ; attempt++)); do
    "$@" &
    child=$!
    # A trap ends `wait` early, so it is asked again until the child is really gone.
    while :; do
        wait "$child"
        status=$?
        kill -0 "$child" 2>/dev/null || break
    done
    if ((stopping)) || [[ $status == 0 || $status == 2 || $status == 130 ]] || ((attempt >= times)); then
        exit "$status"
    fi
    printf '== %(%F %T)T ended with status %s; restart %s of %s\n' -1 "$status" $((attempt + 1)) "$times" >&2
    sleep 5 &
    child=$! # so that a signal ends the pause too
    wait "$child"
    if ((stopping)); then exit "$status"; fi
done
