#!/usr/bin/env bash
# Plans of the shipped Potsdam config on pods and clusters: rows to launch/plans/, tables to the terminal.
# Needs the extras [plan] and [plan-cuda] (README); PYTHON names their interpreter. Compiling a row takes minutes
# to half an hour of CPU; finished rows are not compiled again. Arguments go to every `dis2 plan`: --timeout 3600
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}

plan() {
    nice -n 10 "$PYTHON" -m dis2_jax.cli.main plan --config configs/potsdam.py --tile 512 --dtype bfloat16 \
        --chip-batch 4 --rows launch/plans "$@"
}

plan --topology v5e:2x4,v5e:8x8,v5e:16x16 --scale-from v5e:2x4 "$@"
plan --topology h100:8,h100:128 "$@"
plan --topology h200:8,h200:128 --scale-from h200:8 "$@"
plan --topology v5p:16x16x16 --no-baseline "$@"
plan --topology v5e:2x4,h100:8 --strategy zero1,fsdp,spatial,class "$@"
plan --topology v5e:2x4 --remat decoder --chip-batch 8 --no-baseline "$@"
plan --topology h100:8 --chip-batch 16 --no-baseline "$@"
