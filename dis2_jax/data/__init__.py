"""Data in: raster files, prepared datasets, synthetic scenes, the input pipeline. Never imports jax."""
