#!/usr/bin/env bash
# Make the environment with the test tools, then run lint, types and all tests.
# Arguments go to pytest:  bash launch/test.sh -k golden
set -euo pipefail
# shellcheck source=launch/_environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

make_environment requirements-test.lock
cd "$REPO"
# Compiled programs are kept between runs: the second one takes half the time.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$REPO/.cache/jax}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0.2}
say "ruff"
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
say "mypy"
"$VENV/bin/mypy"
say "pytest"
# One worker per core; a file's tests stay together, since they share compiled functions. -n 0 switches it off.
exec "$VENV/bin/python" -m pytest -n auto --dist loadfile "$@"
