"""All raster file reading: PNG and GeoTIFF through rasterio; every fault is one line that names the file."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dis2_jax.schema import Dis2Error

GRID_TOLERANCE = 0.5
"""Two rasters lie on one grid when their corners are closer than this, in pixels."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

FilePath = Path | str
"""A local file; or, as text, what only GDAL opens: URLs and ``/vsi...``."""

Window = tuple[int, int, int, int]
"""Row, column, height, width in pixels; inside the raster."""


@dataclasses.dataclass(frozen=True)
class RasterInfo:
    """What a file's header says. ``transform`` is the affine (a, b, c, d, e, f), None where there is none."""

    path: FilePath
    height: int
    width: int
    bands: int
    dtype: str
    nodata: float | None = None
    crs: Any = None
    transform: tuple[float, ...] | None = None
    palette: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height, width."""
        return self.height, self.width


class RasterReader:
    """An open raster file; reads windows as ``[h, w, C]`` in the file's dtype. Use it in a ``with``.

    ``bands`` are 1-based, in the order wanted; empty: all. Raises ``Dis2Error`` for a file that is missing,
    unreadable or cut off, and for bands that it does not have.
    """

    def __init__(self, path: str | Path, *, bands: Sequence[int] = ()) -> None:
        self.path = file_path(path)
        self._dataset = _open(self.path)
        self.info = _info(self.path, self._dataset)
        self.bands = tuple(bands) or tuple(range(1, self.info.bands + 1))
        bad = [b for b in self.bands if not 1 <= b <= self.info.bands]
        if bad:
            self.close()
            raise Dis2Error(f"{self.path} has {self.info.bands} bands, no band {bad[0]} (bands count from 1)")

    def __enter__(self) -> RasterReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._dataset.close()

    def read(self, window: Window | None = None) -> np.ndarray:
        """Read a window, or everything: ``[h, w, C]`` in the file's dtype, nodata and NaN as they are."""
        return self._read_planes(list(self.bands), window=rasterio_window(window))

    def read_valid(
        self, window: Window | None = None, *, nodata: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a window ``[h, w, C]`` and where it holds data: bool ``[h, w]``.

        Without data are: nodata (``nodata_mask``), what the file's alpha band or mask leaves out, and pixels
        with NaN or inf. ``nodata`` stands in for the file's own value.
        """
        x = self.read(window)
        valid = ~nodata_mask(x, self.info.nodata if nodata is None else nodata)
        valid &= self._mask(x.shape[:2], window=rasterio_window(window))
        if x.dtype.kind == "f":
            valid &= np.isfinite(x).all(-1)
        return x, valid

    def read_small(self, *, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Read the whole file thinned out so that its longer side has at most ``side`` pixels.

        Returns values ``[h, w, C]`` and valid pixels as ``read_valid`` does. Overviews are used where the file
        has some; memory stays small in any case.
        """
        scale = min(1.0, side / max(self.info.size))
        return self.read_thin(
            None, size=(max(1, round(self.info.height * scale)), max(1, round(self.info.width * scale)))
        )

    def read_thin(self, window: Window | None, *, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Read a window (None: everything) thinned out to ``size`` = (height, width); as ``read_small``."""
        part: dict[str, Any] = {"window": rasterio_window(window)}
        x = self._read_planes(list(self.bands), out_shape=(len(self.bands), *size), **part)
        valid = ~nodata_mask(x, self.info.nodata) & self._mask(size, out_shape=size, **part)
        if x.dtype.kind == "f":
            valid &= np.isfinite(x).all(-1)
        return x, valid

    @property
    def alpha(self) -> int:
        """The 1-based number of the alpha band; 0: none."""
        from rasterio.enums import ColorInterp

        kinds = self._dataset.colorinterp
        return kinds.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in kinds else 0

    @property
    def masked(self) -> bool:
        """Whether an alpha band or a mask says which pixels hold data."""
        from rasterio.enums import MaskFlags

        return MaskFlags.per_dataset in self._dataset.mask_flag_enums[0]

    def unmasked(self, window: Window) -> np.ndarray:
        """Return bool ``[h, w]``, False where the file's alpha band or mask leaves a pixel out."""
        return self._mask(window[2:], window=rasterio_window(window))

    def _mask(self, size: tuple[int, int], **part: Any) -> np.ndarray:
        """True where the file's alpha band or its mask lets a pixel be; nodata values are not looked at.

        A band that is read as data masks nothing: GDAL may call a fourth band alpha that is infrared.
        ``part`` (``window`` or ``out_shape``) is read, ``size`` its height and width.
        """
        if not self.masked or self.alpha in self.bands:
            return np.ones(size, bool)
        with self._naming():
            return np.asarray(self._dataset.read_masks(1, **part) > 0)

    def _read_planes(self, bands: list[int], **options: Any) -> np.ndarray:
        with self._naming():
            planes = self._dataset.read(bands, **options)
        return np.ascontiguousarray(np.moveaxis(planes, 0, -1))

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Name the file in whatever GDAL complains of."""
        try:
            yield
        except gdal_errors() as e:
            if isinstance(self.path, Path):
                raise Dis2Error(f"{self.path} is damaged or cut off ({first_line(e)}): copy it again") from e
            raise Dis2Error(
                f"{self.path} cannot be read ({first_line(e)}): the connection failed, or it is damaged or cut off"
            ) from e

    def colors(self) -> np.ndarray:
        """The palette of a palette image as uint8 ``[256, 3]``; entries it lacks are black."""
        return palette(self._dataset)


def file_path(path: str | Path) -> FilePath:
    """Return a path as GDAL shall see it. URLs and ``/vsi...`` given as text stay so: ``Path`` would drop a slash."""
    if isinstance(path, str) and ("://" in path or path.startswith("/vsi")):
        return path
    return Path(path)


def read_raster(path: str | Path, *, bands: Sequence[int] = ()) -> np.ndarray:
    """Read a whole file: ``[H, W, C]`` in its dtype. Raises ``Dis2Error`` as ``RasterReader`` does."""
    with RasterReader(path, bands=bands) as reader:
        return reader.read()


def raster_info(path: str | Path) -> RasterInfo:
    """Read a file's header. Raises ``Dis2Error`` as ``RasterReader`` does."""
    with RasterReader(path) as reader:
        return reader.info


def check_same_grid(a: RasterInfo, b: RasterInfo) -> None:
    """Raise ``Dis2Error`` naming both files unless size and (where both have it) georeference agree."""
    if a.size != b.size:
        raise Dis2Error(
            f"{a.path} is {a.height} x {a.width} pixels but {b.path} is {b.height} x {b.width}: "
            "bring them to one grid (gdalwarp -tr ... -te ...)"
        )
    if a.transform is None or b.transform is None:
        return
    if a.crs and b.crs and a.crs != b.crs:
        raise Dis2Error(
            f"{a.path} is in {crs_name(a.crs)} but {b.path} in {crs_name(b.crs)}: "
            "reproject one (gdalwarp -t_srs ...)"
        )
    shift = grid_distance(a, b)
    if shift > GRID_TOLERANCE:
        raise Dis2Error(
            f"{a.path} and {b.path} lie up to {shift:.1f} pixels apart by their georeference: "
            "warp one onto the other's grid (gdalwarp -tr ... -te ...)"
        )


def nodata_mask(x: np.ndarray, nodata: float | None) -> np.ndarray:
    """Return bool ``[h, w]``, True where a raster ``[h, w, C]`` holds nodata.

    8-bit images: where every band has the value (a single 0 or 255 is an ordinary colour); all other types:
    where any band has it. ``nodata`` may be NaN; None: nowhere.
    """
    if nodata is None:
        return np.zeros(x.shape[:2], bool)
    hit = (
        np.isnan(x) if np.isnan(nodata) else x == np.asarray(nodata, x.dtype if x.dtype.kind == "f" else None)
    )
    return np.asarray(hit.all(-1) if x.dtype == np.uint8 else hit.any(-1))


def check_finite(
    x: np.ndarray, path: str | Path, *, valid: np.ndarray | None = None, origin: tuple[int, int] = (0, 0)
) -> None:
    """Raise ``Dis2Error`` when a float raster ``[H, W, C]`` has NaN or inf (inside ``valid`` ``[H, W]``).

    ``origin`` is the (row, column) of a window in its file.
    """
    if x.dtype.kind != "f":
        return
    bad = ~np.isfinite(x)
    if valid is not None:
        bad &= valid[..., None]
    if bad.any():
        row, col, band = (int(i[0]) for i in np.nonzero(bad))
        raise Dis2Error(
            f"{path} holds {int(bad.sum())} NaN or inf (first: row {origin[0] + row}, "
            f"column {origin[1] + col}, band {band + 1}): "
            "declare its nodata value (NaN may be one) or mend the file"
        )


def stored_dtype(dtype: str | np.dtype, path: str | Path) -> str:
    """Return the dtype that a source dtype is stored in: uint8, int16 and uint16 stay, others become float32.

    Raises ``Dis2Error`` that names ``path`` for complex numbers.
    """
    d = np.dtype(dtype)
    if d.kind == "c":
        raise Dis2Error(
            f"{path} holds complex numbers ({d}): store amplitude, or real and imaginary part as two bands"
        )
    if d.name in ("uint8", "int16", "uint16"):
        return d.name
    return {"bool": "uint8", "int8": "int16"}.get(d.name, "float32")


def to_stored(x: np.ndarray, dtype: str, path: str | Path) -> np.ndarray:
    """Convert to a stored dtype. Raises ``Dis2Error`` for integers beyond 2^24 and for overflow."""
    if x.dtype == dtype:
        return x
    with np.errstate(over="ignore"):
        y = x.astype(dtype)
    if x.dtype.kind in "iu" and x.size and max(-int(x.min()), int(x.max())) > 2**24:
        raise Dis2Error(
            f"{path} holds integers beyond 16 777 216, which float32 cannot keep: rescale the file"
        )
    if x.dtype.kind == "f" and not np.isfinite(y[np.isfinite(x)]).all():
        raise Dis2Error(
            f"{path} holds numbers too large for float32: declare them as nodata or rescale the file"
        )
    return y


def gdal_errors() -> tuple[type[Exception], ...]:
    """What rasterio raises when GDAL complains. Not all of it derives from its public base class."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    return RasterioError, CPLE_BaseError, OSError, ValueError


@contextlib.contextmanager
def georeference_optional() -> Iterator[None]:
    """Silence rasterio's warning about files without a georeference: whoever needs one looks at ``RasterInfo``."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def palette(dataset: Any) -> np.ndarray:
    """The palette of an open rasterio dataset as uint8 ``[256, 3]``; entries it lacks are black."""
    table = np.zeros((256, 3), np.uint8)
    for code, rgba in dataset.colormap(1).items():
        table[code] = rgba[:3]
    return table


def rasterio_window(window: Window | None) -> Any:
    """Return rasterio's own window; None stays None."""
    from rasterio.windows import Window as RasterioWindow

    if window is None:
        return None
    row, col, height, width = window
    return RasterioWindow(col, row, width, height)


def _open(path: FilePath) -> Any:
    import rasterio
    from rasterio.errors import RasterioError

    local = isinstance(path, Path) and not str(path).startswith("/vsi")
    if local and Path(path).is_dir():
        raise Dis2Error(f"{path} is a folder, not a raster file")
    if local and not Path(path).is_file():
        raise Dis2Error(f"{path} not found: check the path")
    try:
        if local:
            _check_whole_png(Path(path))
        with georeference_optional():
            return rasterio.open(path)
    except (RasterioError, OSError) as e:
        way_out = (
            "PNG or GeoTIFF is wanted" if local else "check address, credentials and that it is a GeoTIFF"
        )
        raise Dis2Error(f"{path} cannot be read as a raster ({first_line(e)}): {way_out}") from e


def _info(path: FilePath, dataset: Any) -> RasterInfo:
    from rasterio.enums import ColorInterp

    t = dataset.transform
    return RasterInfo(
        path=path,
        height=dataset.height,
        width=dataset.width,
        bands=dataset.count,
        dtype=str(np.result_type(*dataset.dtypes)),
        nodata=None if dataset.nodata is None else float(dataset.nodata),
        crs=dataset.crs or None,
        transform=None if t.is_identity else tuple(t)[:6],
        palette=dataset.count == 1 and dataset.colorinterp[0] == ColorInterp.palette,
    )


def grid_distance(a: RasterInfo, b: RasterInfo) -> float:
    """Largest distance of the four corners, in pixels of ``a``."""
    assert a.transform is not None
    assert b.transform is not None
    pixel = math.sqrt(abs(a.transform[0] * a.transform[4] - a.transform[1] * a.transform[3])) or 1.0
    corners = [(0, 0), (a.width, 0), (0, a.height), (a.width, a.height)]
    return max(math.dist(to_world(a.transform, *p), to_world(b.transform, *p)) for p in corners) / pixel


def to_world(t: tuple[float, ...], col: Any, row: Any) -> tuple[Any, Any]:
    """Map pixel positions (numbers or arrays; corners are whole numbers) to coordinates (x, y)."""
    return t[0] * col + t[1] * row + t[2], t[3] * col + t[4] * row + t[5]


def to_pixel(t: tuple[float, ...], x: Any, y: Any) -> tuple[Any, Any]:
    """Undo ``to_world``: coordinates to (column, row)."""
    scale = t[0] * t[4] - t[1] * t[3]
    dx, dy = x - t[2], y - t[5]
    return (t[4] * dx - t[1] * dy) / scale, (t[0] * dy - t[3] * dx) / scale


def crs_name(crs: Any) -> str:
    """Short name of a coordinate reference system: its EPSG code where it has one."""
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_string())[:60]


def _check_whole_png(path: Path) -> None:
    """Raise ``Dis2Error`` when a PNG has no end chunk: GDAL would silently fill up with zeros."""
    with path.open("rb") as f:
        if f.read(8) != _PNG_SIGNATURE:
            return
        while len(head := f.read(8)) == 8:
            if head[4:] == b"IEND":
                return
            f.seek(int.from_bytes(head[:4], "big") + 4, 1)
    raise Dis2Error(f"{path} is cut off (a PNG without its end): copy it again")


def first_line(e: BaseException) -> str:
    """GDAL's own complaint behind a rasterio error, cut to one short line."""
    while e.__cause__ is not None:  # rasterio's own text only points to GDAL's
        e = e.__cause__
    text = str(e).strip().splitlines()
    return text[0][:160] if text else type(e).__name__
