"""Exit statuses of ``dis2``, and which of them a restart may help.

0 done; 1 a fault of the program; 2 bad input, the same at every start; 130 Ctrl-C. Worth a restart: 143 (SIGTERM:
saved), 75 (``LOST``: another process is gone or stuck), 134 (JAX ends a process whose coordinator or peer it does
not hear any more) and 137 (killed).
"""

from __future__ import annotations

LOST = 75
"""EX_TEMPFAIL of sysexits.h."""
