"""Flax Linen modules of DIS2: ``init``/``apply`` only, NHWC, any number of modalities."""
