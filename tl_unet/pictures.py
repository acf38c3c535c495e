"""Picture files, found and read as the training reads them; plain TIFFs by windows, so that they may be larger than memory."""

import itertools
import warnings
from pathlib import Path

import numpy as np

EXTENSIONS = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"))
TIFF = frozenset((".tif", ".tiff"))
_READ_BY_WINDOWS = (1, 8, 32946)  # compressions that tifffile reads without further packages


class Unreadable(ValueError):
    """A picture that can't be read, or not as the model needs it."""


def find_pictures(folder, without=None) -> list[Path]:
    """The pictures in a folder and its subfolders, sorted; hidden ones are left out.

    Args:
        folder: path.
        without: path of a folder inside it that is left out, too. Defaults to `None`.

    Returns:
        A list of paths.
    """
    folder = Path(folder)
    left_out = None if without is None else Path(without).resolve()
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in EXTENSIONS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and (left_out == folder.resolve() or left_out not in path.resolve().parents)
    ]


def warn_once():
    """A function like `warnings.warn` of which only the first call warns: for what may be true of every picture of a folder."""
    calls = itertools.count()

    def warn(message):
        if next(calls) == 0:
            warnings.warn(message, stacklevel=2)

    return warn


def read_picture(path, channels, lazily=False, warn=warnings.warn):
    """Reads a picture as the training does: upright, as grey, RGB or RGBA in 0..255, to which 0..65535 of 16 bits is scaled.

    Args:
        path: path of the file.
        channels: int, those of the model's images. Other than 1, 3 and 4 are read from TIFFs with as many, values as they are.
        lazily: bool, whether a plain TIFF may stay on disk, to be read by windows. Defaults to `False`.
        warn: callable, told if hardly a grey level is left by that. Defaults to `warnings.warn`.

    Returns:
        An array `(height, width, channels)`, or something that can be sliced like one.

    Raises:
        Unreadable: if it cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() in TIFF and (lazily or channels not in (1, 3, 4)):
        array = _tiff_array(path, channels)
        if array is not None:
            return array
    if channels not in (1, 3, 4):
        raise Unreadable(f"it is no TIFF with the {channels} channels that the model takes")
    from PIL import Image

    from tl_unet.data.decoding import decode_image

    try:
        pixels = np.asarray(decode_image(path, channels, warn=warn))
    except Image.DecompressionBombError as error:
        raise Unreadable(
            f"{error} Save it as a TIFF without compression, which is read by windows."
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise Unreadable(f"the image cannot be read: {error}") from error
    return pixels.reshape(*pixels.shape[:2], channels)


def read_resized(path, model, size, warn=warnings.warn):
    """Reads a picture as a model sees it when pictures are resized.

    Args:
        path: path of the file.
        model: `keras.Model`.
        size: int or `(height, width)`.
        warn: as for `read_picture`.

    Returns:
        An array `(height, width, channels)`.

    Raises:
        Unreadable: if it cannot be read.
    """
    pixels = read_picture(path, model.input_shape[-1], warn=warn)
    return resize_picture(np.asarray(pixels), size)


def resize_picture(pixels, size):
    """Resizes an array `(height, width, channels)` as the training does.

    Args:
        pixels: NumPy array.
        size: int or `(height, width)`.

    Returns:
        An array: uint8 for a picture of 1, 3 or 4 channels in uint8, else float32.
    """
    from PIL import Image

    size = (size, size) if isinstance(size, int) else tuple(size)
    if pixels.dtype == np.uint8 and pixels.shape[-1] in (1, 3, 4):
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR)).reshape(*size, -1)
    channels = [
        Image.fromarray(channel).resize(size[::-1], Image.Resampling.BILINEAR)
        for channel in np.ascontiguousarray(np.moveaxis(pixels, -1, 0), "float32")
    ]
    return np.stack([np.asarray(channel) for channel in channels], -1)


def _tiff_array(path, channels):
    """A TIFF as a lazy array, or `None` where Pillow is to read it."""
    try:
        import tifffile
        import zarr
    except ImportError:
        return None
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            shape = page.shape if page.ndim == 3 else (*page.shape, 1)
            orientation = page.tags.get(274)
            fits = (
                shape[-1] == channels
                and page.ndim in (2, 3)
                and page.axes in ("YX", "YXS")
                and (page.dtype == np.uint8 or channels not in (1, 3, 4))
                and page.compression in _READ_BY_WINDOWS
                and page.photometric in (1, 2)  # black is zero, RGB
                and (orientation is None or orientation.value == 1)
            )
        if not fits:
            return None
        array = zarr.open(tifffile.imread(path, aszarr=True, key=0), mode="r")
    except Exception:  # whatever is wrong with it, Pillow says so in one way
        return None
    array = array if hasattr(array, "shape") else array["0"]
    return array if array.ndim == 3 else _WithChannel(array)


class _WithChannel:
    """A grey array `(height, width)` as `(height, width, 1)`, still read by windows."""

    def __init__(self, array):
        self.array, self.shape = array, (*array.shape, 1)

    def __getitem__(self, index):
        return np.asarray(self.array[index])[..., None]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array[:], dtype)[..., None]
