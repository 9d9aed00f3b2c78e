"""How a process leaves a job: in order where all leave, at once where it alone fails."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

import jax

from dis2_jax.distributed.exit_status import LOST
from dis2_jax.distributed.jointly import JointError, several
from dis2_jax.distributed.start import NotMetError, who
from dis2_jax.schema import Dis2Error


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """End this process without waiting for the others when it fails alone; they see it go and end too.

    The interpreter's own way out would wait for them, who wait for it. Status: 2 for a ``Dis2Error``, ``LOST`` where
    the runtime reports that another process is gone, 1 for anything else. In a job of one process errors pass.
    """
    try:
        yield
    except (JointError, SystemExit):
        raise
    except NotMetError as e:
        print(f"dis2: error: {e}", file=sys.stderr, flush=True)
        os._exit(LOST)
    except BaseException as e:
        if not several() or isinstance(e, KeyboardInterrupt):
            raise
        status = _tell(e)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def is_peer_lost(e: BaseException | None) -> bool:
    """Whether the runtime's complaint about another process (or about the way to it) is behind an error."""
    seen: set[int] = set()
    while e is not None and id(e) not in seen:
        seen.add(id(e))
        if isinstance(e, jax.errors.JaxRuntimeError) and several():
            return not any(word in str(e) for word in ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"))
        e = e.__cause__ or e.__context__
    return False


def _tell(e: BaseException) -> int:
    if is_peer_lost(e):
        text = " ".join(str(e).split())[:400]
        print(
            f"dis2: error: {who()}: another process is gone, or cannot be reached ({text});"
            " ending. `dis2 train` goes on from the last checkpoint",
            file=sys.stderr,
        )
        return LOST
    if isinstance(e, Dis2Error):
        print(f"dis2: error: {who()}: {e}", file=sys.stderr)
        return 2
    traceback.print_exception(e)
    return 1
