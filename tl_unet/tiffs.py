"""TIFF files as arrays `(height, width, channels)` that are read by windows, so that they may be larger than memory.

Pillow reads what has a colour mode of its own; this is for the rest, such as twelve bands, and for scenes. It needs tifffile
and zarr, which are imported only here.
"""

import importlib.util

import numpy as np

_BANDS = {"YX": None, "YXS": 2, "SYX": 0}  # tifffile's axes of one picture: where its bands are
_UNPACKED = (1, 8, 32946)  # compressions that tifffile reads without further packages


class Unreadable(ValueError):
    """A picture that can't be read, or not as the model needs it."""


def single_page(file):
    """The page of a `tifffile.TiffFile` that is its picture; its smaller copies and its transparency mask don't count.

    Raises:
        Unreadable: if there is more than one, or it is no picture of bands.
    """
    page = file.pages[0]
    if any(not int(other.subfiletype) & 5 for other in file.pages[1:]):
        raise Unreadable(
            "it has several pages, and which one is meant is unclear; save each as a file of its own, or the bands of one "
            "picture on one page"
        )
    if page.axes not in _BANDS:
        raise Unreadable(f"its axes are {page.axes}, not height, width and bands")
    return page


def page_shape(page):
    """Height, width and number of channels of a page."""
    band = _BANDS[page.axes]
    if band is None:
        return (*page.shape, 1)
    sides = [side for axis, side in enumerate(page.shape) if axis != band]
    return (*sides, page.shape[band])


def missing_codec(page):
    """What keeps tifffile from decoding a page: a sentence, or `None`."""
    if page.compression in _UNPACKED or importlib.util.find_spec("imagecodecs"):
        return None
    return (
        f"its compression {page.compression.name} needs a further package (`pip install imagecodecs`); or save it without "
        "compression, or with Deflate"
    )


def open_tiff(path, check=missing_codec):
    """Opens a TIFF to be read by windows.

    Args:
        path: path of the file.
        check: callable that is given its tifffile page and returns what is wrong with it, or `None`.

    Returns:
        An array-like `(height, width, channels)` that is read when sliced; what is damaged then raises `Unreadable`, too.

    Raises:
        Unreadable: if it isn't one picture, or `check` says so.
        tifffile.TiffFileError: if it is no TIFF.
        ImportError: if `tifffile` or `zarr` is missing.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = single_page(file)
        if problem := check(page):
            raise Unreadable(problem)
        axes, shape = page.axes, page_shape(page)
        mapped = page.is_memmappable
    if mapped:  # zarr would read whole strips, and such a file is often one
        try:
            return _Windows(tifffile.memmap(path, mode="r", page=0), axes, shape)
        except ValueError as error:
            raise Unreadable(f"the image cannot be read: {error}") from error
    import zarr

    array = zarr.open(tifffile.imread(path, aszarr=True, key=0), mode="r")
    return _Windows(array if hasattr(array, "shape") else array["0"], axes, shape)


def read_tiff(source, channels, upright):
    """Reads a TIFF as a whole.

    Args:
        source: path, or open file.
        channels: int, what it must have.
        upright: bool, whether one that is stored turned is refused.

    Returns:
        A NumPy array `(height, width, channels)` of uint8 or uint16.

    Raises:
        Unreadable: if it cannot be read so.
        ImportError: if `tifffile` is missing.
    """
    import tifffile

    try:
        with tifffile.TiffFile(source) as file:
            page = single_page(file)
            orientation = page.tags.get(274)
            if (found := page_shape(page)[-1]) != channels:
                raise Unreadable(f"it has {found} channels, not {channels}")
            if page.dtype not in (np.uint8, np.uint16) or page.photometric not in (1, 2):
                raise Unreadable(
                    f"its pixels ({page.dtype}, {page.photometric.name}) are not 8- or 16-bit, grey or RGB"
                )
            if upright and orientation is not None and orientation.value != 1:
                raise Unreadable(
                    f"it is to be turned (orientation {orientation.value}); save it upright"
                )
            if problem := missing_codec(page):
                raise Unreadable(problem)
            return _bands_last(page.asarray(), page.axes)
    except (Unreadable, MemoryError):
        raise
    except Exception as error:
        raise Unreadable(f"it is damaged: {error} ({type(error).__name__})") from error


def _bands_last(array, axes):
    array = np.moveaxis(array, 0, -1) if axes == "SYX" else array
    return np.ascontiguousarray(array[..., None] if axes == "YX" else array)


class _Windows:
    """An array on disk, its bands last whatever their place in the file."""

    def __init__(self, array, axes, shape):
        self.array, self.axes, self.shape, self.ndim = array, axes, shape, 3
        self.dtype = array.dtype.newbyteorder("=")

    def __getitem__(self, index):
        index = index if isinstance(index, tuple) else (index,)
        sides, bands = index[:2], index[2:]
        try:
            if self.axes == "SYX":
                window = np.moveaxis(self._native(self.array[(slice(None), *sides)]), 0, -1)
            else:
                window = self._native(self.array[sides])
        except MemoryError:
            raise
        except Exception as error:  # zlib.error, TiffFileError, ...: each codec has its own
            raise Unreadable(
                f"the image cannot be read: {error} ({type(error).__name__})"
            ) from error
        window = window[..., None] if self.axes == "YX" else window
        return window[(..., *bands)] if bands else window

    def _native(self, window):
        # A copy also of a mapped file, which may be closed or changed before it is used.
        return np.array(window, self.dtype)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)
