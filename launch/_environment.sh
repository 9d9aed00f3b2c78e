# shellcheck shell=bash
# Sourced by the scripts beside it: find a Python, make .venv, install the locked dependencies when they changed.
# Sets REPO (this clone) and VENV (its environment); PYTHON=/path/to/python chooses the interpreter.

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$REPO/.venv
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_USER=0
# Huge pages for large arrays: on CPU a training step spends a quarter of its time in page faults without (README).
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

say() { printf '\n== %s\n' "$*"; }

fail() {
    printf '\n%s: error: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() { # prints the interpreter to use
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON does not run, or is older than Python 3.11"
        command -v "$PYTHON"
        return
    fi
    for candidate in python3.13 python3.12 python3.11 python3.14 python3 python; do
        # A pyenv shim is found but does not run, so running it is the test.
        if is_new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found (python3 is $(python3 --version 2>&1 || echo missing));" \
        "install one, or name it: PYTHON=/path/to/python3.11 bash $0"
}

make_venv() {
    local python
    # Still good, and of the version asked for: keep it. A moved clone or a half-made venv fails here.
    if "$VENV/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        local version='import sys; print(*sys.version_info[:3])'
        if [[ -z ${PYTHON:-} || $("$PYTHON" -c "$version") == $("$VENV/bin/python" -c "$version") ]]; then
            return
        fi
    fi
    python=$(find_python) || exit 1
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        fail "$python has no venv module: install it (Debian, Ubuntu: apt-get install python3-venv), or set PYTHON"
    say "making $VENV with $("$python" --version) ($python)"
    "$python" -m venv --clear "$VENV" || fail "could not make $VENV"
}

make_environment() { # make_environment LOCK_FILE
    local lock=$1 stamp wanted
    stamp=$VENV/.installed-$lock
    make_venv
    wanted=$("$VENV/bin/python" - "$REPO/$lock" "$REPO/pyproject.toml" "$REPO" <<'PYTHON_END'
import hashlib, pathlib, sys
lock, project, repo = sys.argv[1:]
print(hashlib.sha256(pathlib.Path(lock).read_bytes() + pathlib.Path(project).read_bytes() + repo.encode()).hexdigest())
PYTHON_END
    )
    if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
        return
    fi
    say "installing what $lock names (several hundred MB the first time)"
    rm -f "$VENV"/.installed-*
    "$VENV/bin/python" -m pip install --progress-bar off --requirement "$REPO/$lock" ||
        fail "could not install $lock: see pip's message above, then run this again"
    "$VENV/bin/python" -m pip install --quiet --no-deps --no-build-isolation --editable "$REPO" ||
        fail "could not install dis2_jax itself: see pip's message above"
    printf '%s\n' "$wanted" >"$stamp"
}
