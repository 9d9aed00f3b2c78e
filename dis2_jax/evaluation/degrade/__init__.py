"""Degraded inputs: what noise, gaps, shifts, old heights and clouds do to a model, and when to switch."""
