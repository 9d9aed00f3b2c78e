"""Tiles and maps as pictures."""
