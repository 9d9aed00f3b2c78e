"""Tiles straight from scenes: an index of their files, and windows read from them when they are wanted."""
