"""Optimiser, state, the DLKD step, the loop around it and its checkpoints."""
