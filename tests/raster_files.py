"""Writes small raster files for tests."""

import warnings

import numpy as np


def write_raster(path, x, *, nodata=None, crs=None, origin=None, pixel=1.0, palette=None):
    """Write ``[H, W]`` or ``[H, W, C]`` as PNG or GeoTIFF, by the path's suffix."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    x = x if x.ndim == 3 else x[..., None]
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "height": x.shape[0],
        "width": x.shape[1],
        "count": x.shape[2],
        "dtype": x.dtype,
        "nodata": nodata,
    }
    profile |= {"driver": "PNG" if path.suffix == ".png" else "GTiff", "crs": crs}
    if origin is not None:
        profile["transform"] = rasterio.Affine(pixel, 0, origin[0], 0, -pixel, origin[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile) as f:
            f.write(np.moveaxis(x, -1, 0))
            if palette:
                f.write_colormap(1, palette)
    return path
