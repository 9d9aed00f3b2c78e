#!/usr/bin/env bash
# Cloud TPU: create a pod slice, put this clone on all of its workers, train, look, delete.
#   bash launch/tpu_pod.sh -z us-west4-a -t v5litepod-16 create mypod
#   bash launch/tpu_pod.sh -z us-west4-a install mypod
#   bash launch/tpu_pod.sh -z us-west4-a run mypod --config configs/potsdam.py --workdir /mnt/shared/runs/potsdam
#   bash launch/tpu_pod.sh -z us-west4-a logs mypod
#   bash launch/tpu_pod.sh -z us-west4-a stop mypod          saves and ends
#   bash launch/tpu_pod.sh -z us-west4-a delete mypod
# --dry-run first shows what would be run, and runs nothing. The workdir must be storage that all workers share.
set -euo pipefail

usage() {
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    cat <<'END'
options: -z ZONE  -p PROJECT (default: gcloud's)  -t TYPE (create)  -s: spot (create)  -r RESTARTS (run; default 20)
         -v RUNTIME (create; default v2-alpha-tpuv5-lite: look up the one of your TPU type)  --dry-run
END
}

zone='' project='' type=v5litepod-16 runtime=v2-alpha-tpuv5-lite spot='' restarts=20 dry=''
if [[ ${1:-} == --dry-run ]]; then
    dry=yes
    shift
fi
while getopts 'z:p:t:v:sr:h' option; do
    case $option in
        z) zone=$OPTARG ;;
        p) project=$OPTARG ;;
        t) type=$OPTARG ;;
        v) runtime=$OPTARG ;;
        s) spot=yes ;;
        r) restarts=$OPTARG ;;
        h) usage && exit 0 ;;
        *) usage >&2 && exit 2 ;;
    esac
done
shift $((OPTIND - 1))
if [[ $# -lt 2 || -z $zone ]]; then
    usage >&2
    exit 2
fi
action=$1 name=$2
shift 2
where=(--zone "$zone" ${project:+--project "$project"})
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

do_it() { # run a command, or only show it
    printf '%q ' "$@"
    echo
    if [[ -z $dry ]]; then "$@"; fi
}

on_workers() { # on_workers all|0 COMMAND: a shell command on the workers
    do_it gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker "$1" --command "$2"
}

case $action in
    create)
        do_it gcloud compute tpus tpu-vm create "$name" "${where[@]}" --accelerator-type "$type" \
            --version "$runtime" ${spot:+--spot}
        ;;
    install)
        archive=$(mktemp -d)/dis2_jax.tgz
        trap 'rm -rf "$(dirname "$archive")"' EXIT
        do_it git -C "$repo" archive --format=tar.gz --output "$archive" HEAD
        do_it gcloud compute tpus tpu-vm scp "$archive" "$name:dis2_jax.tgz" "${where[@]}" --worker all
        on_workers all "rm -rf dis2_jax && mkdir dis2_jax && tar xzf dis2_jax.tgz -C dis2_jax && cd dis2_jax && \
python3 -m venv .venv && .venv/bin/pip install --quiet -e '.[tpu]'"
        ;;
    run)
        # Survives the end of this connection; every worker restarts by itself, all meet again.
        arguments=$(printf '%q ' "$@")
        on_workers all "cd dis2_jax && { nohup setsid bash launch/restart.sh $restarts .venv/bin/dis2 train \
--distributed tpu $arguments >>train.log 2>&1 </dev/null & echo \$! >train.pid; }"
        ;;
    logs) on_workers 0 'tail -n 100 -F dis2_jax/train.log' ;;
    stop) on_workers all 'xargs kill -TERM <dis2_jax/train.pid' ;;
    delete) do_it gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet ;;
    *) usage >&2 && exit 2 ;;
esac
