"""Prediction with whatever modalities are there."""
