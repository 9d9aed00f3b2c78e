#!/usr/bin/env bash
# Make the environment with the test tools, then run lint, types and all tests.
# Arguments go to pytest:  bash launch/test.sh -k golden        bash launch/test.sh -m slow
set -euo pipefail
# shellcheck source=launch/_environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

make_environment requirements-test.lock
cd "$REPO"
say "ruff"
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
say "mypy"
"$VENV/bin/mypy"
say "pytest"
exec "$VENV/bin/python" -m pytest -m "not slow" "$@"
