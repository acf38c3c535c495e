"""Picture files, found and read as the training reads them; plain TIFFs by windows, so that they may be larger than memory."""

import collections
import itertools
import warnings
from pathlib import Path

import numpy as np

from tl_unet.tiffs import Unreadable, missing_codec, open_tiff, page_shape

EXTENSIONS = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"))
TIFF = frozenset((".tif", ".tiff"))


def walk(folder):
    """Every file in a folder and its subfolders, also those that links lead to, sorted; hidden ones are left out."""

    def inside(folder, above):
        real = folder.resolve()
        if real in above:  # a link to a folder that it lies in
            return
        try:
            entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        except PermissionError:  # such as `lost+found`
            return
        for entry in entries:
            if entry.is_dir():
                yield from inside(entry, {*above, real})
            elif entry.is_file():
                yield entry

    return sorted(inside(folder, set()))


def find_pictures(folder, without=None) -> list[Path]:
    """The pictures in a folder and its subfolders, sorted; hidden ones are left out.

    Args:
        folder: path.
        without: path of a folder that is left out, too, if it is inside. Defaults to `None`.

    Returns:
        A list of paths.
    """
    folder = Path(folder)
    left_out = None if without is None else Path(without).resolve()
    inside = left_out is not None and folder.resolve() in left_out.parents
    return [
        path
        for path in walk(folder)
        if path.suffix.lower() in EXTENSIONS and not (inside and left_out in path.resolve().parents)
    ]


def warn_once():
    """A function like `warnings.warn` that warns once of each kind: for what may be true of every picture of a folder."""
    calls = collections.defaultdict(itertools.count)  # counts are safe in threads

    def warn(message):
        if next(calls[type(message)]) == 0:
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
    if channels not in (1, 3, 4):
        return _by_windows(path, channels)
    if lazily:
        try:
            return _by_windows(path, channels)
        except Unreadable:  # Pillow is to read it
            pass
    from PIL import Image

    from tl_unet.data.decoding import decode_image

    try:
        pixels = np.asarray(decode_image(path, channels, warn=warn))
    except Image.DecompressionBombError as error:
        raise Unreadable(f"{error} {_how_to_read(path, channels)}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise Unreadable(f"the image cannot be read: {error}") from error
    return pixels.reshape(*pixels.shape[:2], channels)


def _how_to_read(path, channels):
    """What to do with a picture that is too large for Pillow."""
    try:
        _by_windows(path, channels)
    except Unreadable as error:
        why = f" ({error})" if path.suffix.lower() in TIFF else ""
        return (
            "Save it as a TIFF with 8 bits a channel, without compression or with Deflate, and give --tile (`tile=` in Python): "
            f"then it is read by windows{why}."
        )
    return "Give --tile (`tile=` in Python): then it is read by windows."


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
    as_bytes = pixels.dtype == np.uint8 and pixels.shape[-1] in (1, 3, 4)
    if as_bytes and pixels.shape[-1] == 3:
        return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    # One by one: of four channels together Pillow would multiply three by the last, its alpha.
    channels = np.ascontiguousarray(np.moveaxis(pixels, -1, 0), "uint8" if as_bytes else "float32")
    return np.stack(
        [
            np.asarray(Image.fromarray(channel).resize(size[::-1], Image.Resampling.BILINEAR))
            for channel in channels
        ],
        -1,
    )


def _by_windows(path, channels):
    """A TIFF as an array that is read when sliced.

    Raises:
        Unreadable: if that is not possible, or would give other values than Pillow.
    """

    def problem(page):
        orientation = page.tags.get(274)
        found = page_shape(page)[-1]
        if found != channels:
            return f"it has {found} channels, the model takes {channels}"
        if channels in (1, 3, 4) and page.dtype != np.uint8:
            return f"its pixels are {page.dtype}, not of 8 bits"
        if channels in (1, 3, 4) and page.bitspersample != 8:
            return f"its pixels have {page.bitspersample} bits, not 8"
        if channels in (1, 3, 4) and 1 in page.extrasamples:
            return "its colours are multiplied by its transparency"
        if page.photometric not in (1, 2):  # black is zero, RGB
            return f"its pixels are of the kind {page.photometric.name}, not grey or RGB"
        if orientation is not None and orientation.value != 1:
            return f"it is to be turned (orientation {orientation.value}); save it upright"
        return missing_codec(page)

    if path.suffix.lower() not in TIFF:
        raise Unreadable(f"it is no TIFF with the {channels} channels that the model takes")
    try:
        return open_tiff(path, problem)
    except Unreadable:
        raise
    except ImportError as error:
        raise Unreadable(f"{error}; `pip install tifffile zarr`") from error
    except Exception as error:  # of a damaged file: whatever tifffile stumbles over
        raise Unreadable(f"the image cannot be read: {error}") from error
