#!/usr/bin/env bash
# Run a dis2 command as several processes on this machine, and start it again from the last good checkpoint when one
# of them dies. For several machines see slurm.sbatch, tpu_pod.sh and gke_jobset.yaml beside this file.
#   bash launch/local_multiprocess.sh -n 2 -- .venv/bin/dis2 train --workdir runs/x --config configs/demo.py
set -uo pipefail

usage() {
    cat <<'END'
usage: local_multiprocess.sh [-n N] [-d DEVICES | -g] [-r RESTARTS] [-p SECONDS] [-k SECONDS] -- COMMAND ...
  -n N         processes (default: 2)
  -d DEVICES   CPU only: virtual devices of each process
  -g           process i sees GPU i only (default: each sees all there is)
  -r RESTARTS  how often to start again after a failure (default: 3)
  -p SECONDS   pause before a restart (default: 1)
  -k SECONDS   kill what still runs so long after a process failed (default: 120)
COMMAND gets --distributed local added, and the rest by environment (DIS2_COORDINATOR and so on).
Ends with 0: done; 143: stopped by SIGTERM or Ctrl-C, saved; 2: bad input, which no restart helps; else the last failure.
END
}

processes=2 devices='' gpus='' restarts=3 pause=1 patience=120
while getopts 'n:d:gr:p:k:h' option; do
    case $option in
        n) processes=$OPTARG ;;
        d) devices=$OPTARG ;;
        g) gpus=yes ;;
        r) restarts=$OPTARG ;;
        p) pause=$OPTARG ;;
        k) patience=$OPTARG ;;
        h) usage && exit 0 ;;
        *) usage >&2 && exit 2 ;;
    esac
done
shift $((OPTIND - 1))
if [[ $# == 0 || ! $processes =~ ^[1-9][0-9]*$ || ! $restarts =~ ^[0-9]+$ || ! $patience =~ ^[0-9]+$ ]]; then
    usage >&2
    exit 2
fi
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

say() { printf '== %(%T)T %s\n' -1 "$*"; }

free_port() { # prints one that nobody listens on; the ephemeral range is left alone
    local port
    while :; do
        port=$((10240 + RANDOM % 20000))
        (: <"/dev/tcp/localhost/$port") 2>/dev/null || break
    done
    echo "$port"
}

prefix() { # prefix I: marks the lines of process I; outlives a Ctrl-C, else the process would lose its output
    trap '' INT TERM HUP
    local line
    while IFS= read -r line || [[ -n $line ]]; do printf '[%s] %s\n' "$1" "$line"; done
}

start_all() { # sets pids
    local i port
    port=$(free_port)
    pids=()
    for ((i = 0; i < processes; i++)); do
        (
            export DIS2_COORDINATOR=localhost:$port DIS2_PROCESSES=$processes DIS2_PROCESS_ID=$i
            if [[ -n $devices ]]; then export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=$devices; fi
            if [[ -n $gpus ]]; then export CUDA_VISIBLE_DEVICES=$i; fi
            exec "$@" --distributed local
        ) > >(prefix "$i") 2>&1 &
        pids[i]=$!
    done
    if ((stopping)); then kill -TERM "${pids[@]}" 2>/dev/null; fi
}

wait_all() { # sets statuses; when one has failed, the others end by themselves, or are killed
    local i left deadline=-1
    statuses=()
    while :; do
        left=0
        for ((i = 0; i < processes; i++)); do
            [[ -z ${statuses[i]:-} ]] || continue
            if kill -0 "${pids[i]}" 2>/dev/null; then
                ((left += 1))
                continue
            fi
            wait "${pids[i]}"
            statuses[i]=$?
            if [[ ${statuses[i]} != 0 && ${statuses[i]} != 143 ]] && ((deadline < 0)); then
                deadline=$((SECONDS + patience))
                say "process $i ended with status ${statuses[i]}; the others have $patience s"
            fi
        done
        ((left)) || return 0
        if ((deadline >= 0 && SECONDS >= deadline)); then
            say "killing what is left"
            kill -KILL "${pids[@]}" 2>/dev/null
            deadline=$((SECONDS + 3600))
        fi
        sleep 0.2
    done
}

has_status() { # has_status N: whether some process ended so
    local status
    for status in "${statuses[@]}"; do [[ $status != "$1" ]] || return 0; done
    return 1
}

failure() { # prints the first status that is not 0
    local status
    for status in "${statuses[@]}"; do
        if [[ $status != 0 ]]; then
            echo "$status"
            return
        fi
    done
    echo 0
}

stop() {
    if ((stopping)); then
        kill -KILL "${pids[@]}" 2>/dev/null
        return
    fi
    stopping=1
    say "stopping: all save and end (a second signal kills them)"
    kill -TERM "${pids[@]}" 2>/dev/null
}

stopping=0 pids=() statuses=()
trap stop INT TERM HUP
for ((attempt = 0; ; attempt++)); do
    start_all "$@"
    wait_all 2>/dev/null # bash would print the whole command of a killed one
    status=$(failure)
    if [[ $status == 0 ]]; then exit 0; fi
    say "ended with ${statuses[*]}"
    if has_status 2; then exit 2; fi
    if ((stopping)); then exit 143; fi
    if has_status 130; then exit 130; fi
    if ((attempt >= restarts)); then
        say "no restarts left"
        exit "$status"
    fi
    say "restart $((attempt + 1)) of $restarts"
    sleep "$pause"
done
