"""Builders: each turns source files (or nothing, for the synthetic city) into a prepared dataset folder.

A builder module describes itself with a ``DatasetSpec`` and streams ``Tile`` objects per split;
``writer.write_dataset`` does the rest. ``tfds_builders`` offers the same tiles as
``tfds.core.GeneratorBasedBuilder`` classes.
"""
