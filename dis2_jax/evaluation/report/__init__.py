"""One self-contained HTML page about a run, and its figures as files.

``build.py`` is the way through: ``inputs.py`` reads what the workdir holds, ``sections/`` turn it into blocks
(``blocks.py``) with figures from ``drawing/``, ``page.py`` makes HTML of them.
"""
