#!/usr/bin/env bash
# Remake requirements.lock, requirements-test.lock and requirements-plan.lock (the TPU compiler alone) from pyproject.toml (developers only; needs `uv`).
# One file serves every Python: markers give 3.11 the last jax that runs on it, and 3.12+ the newest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lock() { # lock OUTPUT [uv arguments ...]
    local output=$1
    shift
    # --no-config and the explicit index keep this machine's mirrors out of the file. setuptools builds our
    # own package (--no-build-isolation), so that it is pinned too.
    echo "setuptools>=77" | env -u UV_FIND_LINKS -u UV_EXTRA_INDEX_URL -u PIP_FIND_LINKS \
        "${UV:-uv}" pip compile --quiet --no-config --default-index https://pypi.org/simple \
        --universal --python-version 3.11 --fork-strategy requires-python --generate-hashes --no-annotate \
        --custom-compile-command "bash launch/lock.sh" --output-file "$output" "$@" pyproject.toml -
}

lock requirements.lock "$@"
lock requirements-test.lock --extra test --constraint requirements.lock "$@"

compiler=$(sed -n 's/^plan = \["\(libtpu[^"]*\)".*/\1/p' pyproject.toml)
echo "${compiler:?no libtpu in the extra [plan] of pyproject.toml}" | env -u UV_FIND_LINKS -u UV_EXTRA_INDEX_URL -u PIP_FIND_LINKS \
    "${UV:-uv}" pip compile --quiet --no-config --default-index https://pypi.org/simple --no-deps --python-version 3.11 \
    --generate-hashes --no-annotate --custom-compile-command "bash launch/lock.sh" --output-file requirements-plan.lock "$@" -
