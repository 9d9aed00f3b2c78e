"""Process of one row: ``python -m dis2_jax.planning.worker REQUEST RESULT [HLO]``. JSON in, JSON out.

A process of its own, since the compiler for other hardware is chosen by environment variables before JAX starts, and
since it may crash. Refusals are results, not errors.
"""

from __future__ import annotations

import gzip
import os
import re
import sys
import threading
import time
from pathlib import Path

from dis2_jax.planning.compiling import compile_step
from dis2_jax.planning.devices import topology_devices
from dis2_jax.planning.request import Failure, Request, Row
from dis2_jax.schema import Dis2Error

_SIZES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def run(request: Request, *, hlo: Path | None = None) -> Row:
    """Compile one row; ``hlo`` keeps the compiled text there (gzip)."""
    start = time.perf_counter()
    facts = failure = None
    try:
        machine = request.machine
        compiled = compile_step(
            request.config,
            request.card,
            tile=request.tile,
            chip=machine.chip,
            devices=topology_devices(machine),
        )
        facts = compiled.facts
        if hlo is not None:
            hlo.write_bytes(gzip.compress(compiled.text.encode()))
    except Dis2Error as e:
        failure = Failure("refused", str(e))
    except Exception as e:  # the compiler's own errors are XlaRuntimeError, ValueError and others
        failure = explain(e)
    return Row(request, facts, failure, time.perf_counter() - start)


def explain(error: Exception) -> Failure:
    """Put a compiler's error into a line: too little memory, or the first sentence of it."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" in text or "Ran out of memory" in text:
        used = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+[KMGT]) hbm", text)
        needed = int(float(used[1]) * _SIZES[used[2]]) if used else None
        return Failure("does not fit", _first_line(text), needed)
    return Failure("refused", f"{type(error).__name__}: {_first_line(text)}")


def _first_line(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no message")
    return line[:300]


def _end_with(parent: int) -> None:
    """End this process when its parent has gone: nobody waits for the row then."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main() -> None:
    """Read the request, compile, write the row."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    request_file, result_file, *rest = sys.argv[1:]
    row = run(Request.from_json(Path(request_file).read_text()), hlo=Path(rest[0]) if rest else None)
    Path(result_file).write_text(row.to_json())


if __name__ == "__main__":
    main()
