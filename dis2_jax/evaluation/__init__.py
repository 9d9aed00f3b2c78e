"""Confusion matrices, tables and pictures of every missing-modality scenario."""
