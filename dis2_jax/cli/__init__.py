"""The ``dis2`` command: one small file per sub-command; parsing and printing only."""
