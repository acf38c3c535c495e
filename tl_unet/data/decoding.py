"""Picture files to pixels, by Pillow: a picture has the same ones whichever source it comes from."""

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tl_unet.tiffs import read_tiff

_FEW_LEVELS = 16  # of grey, which a picture of 12 bits in 16 keeps
_PAGED = ("TIFF", "GIF", "PNG", "WEBP")  # not MPO: there the camera adds previews to the picture
_TIFF_BEGINS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHOLE = 2**24  # up to which float32 holds every whole number


class _NoLowBytes(ValueError):
    """Pillow has no way to the low bytes of these colours."""


def pillow():
    """Pillow's modules `Image` and `ImageOps`; an ImportError that says how to get them."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(
            "Reading images needs Pillow, which is not installed. Install it with `pip install pillow`."
        ) from error
    return Image, ImageOps


class FewLevels(UserWarning):
    """A picture of 16 bits of which 8 leave hardly a grey level."""


class UnclearOrientation(UserWarning):
    """A picture that may have to be turned, or not."""


def _name(source):
    return "A picture" if isinstance(source, bytes) else os.fspath(source)


def _stream(source):
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _open(source: Any, orient: bool, warn: Callable = warnings.warn, low_bytes: bool = False):
    """Opens and decodes a file (a path, or its bytes), turned upright if `orient`.

    Pillow keeps the high byte of colours of 16 bits; the low one instead with `low_bytes`. The image's `info` says whether it
    had 16 bits, how many samples a pixel, whether the fourth is one that Pillow reads and then hides, and its EXIF orientation.
    """
    image_module, image_ops = pillow()
    try:
        image = image_module.open(_stream(source))
        if orient and _several_pictures(image):  # of published data the first is known to be meant
            raise ValueError(
                f"it holds {image.n_frames} pictures (pages or an animation); save the one that is meant as a file of its own"
            )
        tags = image.tag_v2 if image.format == "TIFF" else {}
        samples, deep = tags.get(277, len(image.getbands())), _has_deep_colours(image)
        if samples > len(image.getbands()) == 1 or (deep and tags.get(284) == 2):
            # Bands one after another, which Pillow would take for bytes of one.
            raise image_module.UnidentifiedImageError(f"Pillow does not read its {samples} bands")
        if low_bytes:
            image.tile = [_other_byte(tile) for tile in image.tile]
        turned = tags.get(274, 1)  # loading a TIFF turns it
        image.load()  # also closes the file
    except (OSError, SyntaxError, ValueError, MemoryError, image_module.DecompressionBombError):
        raise
    except Exception as error:  # what a damaged file makes Pillow stumble over
        raise OSError(f"it is damaged: {error} ({type(error).__name__})") from error
    hidden = samples == 4 and image.mode == "RGB"
    image.info |= {"deep": deep, "samples": samples, "hidden": hidden}
    if image.format == "GIF":
        image = image.convert("RGB")  # its palette is the writer's, the indices mean nothing
    if not orient:
        return image
    try:
        # Turning takes it away.
        image.info["orientation"] = turned if turned in range(2, 9) else _orientation(image)
        return image_ops.exif_transpose(image)
    except Exception as error:
        warn(
            UnclearOrientation(
                f"{_name(source)}: its EXIF data is damaged ({error}), so it is taken as it is stored. Further pictures are not told."
            )
        )
        return image


def _several_pictures(image):
    """Whether a file holds more than one; a TIFF's smaller copies and transparency masks, and what MPO adds, don't count."""
    if image.format not in _PAGED or getattr(image, "n_frames", 1) == 1:
        return False
    if image.format != "TIFF":
        return True
    for page in range(1, image.n_frames):
        with contextlib.suppress(SyntaxError):  # of a kind that Pillow doesn't read
            image.seek(page)
        if not image.tag_v2.get(254, 0) & 5:
            return True
    image.seek(0)
    return False


def _has_deep_colours(image):
    """Whether the file has colours of 16 bits, which Pillow cuts to 8."""
    if image.format not in ("PNG", "TIFF") or image.mode.startswith("I") or image.mode == "F":
        return False
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,))) > 8
    return any(";16" in str(tile[3]) for tile in image.tile)


def _other_byte(tile):
    """A tile of Pillow's that gives the lower bytes: numbers of 16 bits read in the wrong order."""
    codec, extents, offset, how = tile
    raw, *more = (how,) if isinstance(how, str) else how
    parts = re.fullmatch("(RGBX*|RGBA|CMYK);16([LBN])", raw)
    if parts is None:
        raise _NoLowBytes
    order = {"little": "L", "big": "B"}[sys.byteorder] if parts[2] == "N" else parts[2]
    raw = f"{parts[1]};16{'B' if order == 'L' else 'L'}"
    parts = codec, extents, offset, raw if isinstance(how, str) else (raw, *more)
    return tile._make(parts) if hasattr(tile, "_make") else parts  # Pillow 10 has plain tuples


def _samples(image):
    """The samples of an image, also a fourth that is not transparency."""
    if image.info["hidden"]:
        stored = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8)
        return stored.reshape(image.height, image.width, 4)
    return np.asarray(image)


def _scaled(pixels, source, mode, warn):
    """Numbers in 0..65535 as uint8 in 0..255."""
    _check_range(source, mode, int(pixels.max()), warn)
    return (pixels.astype(np.int64) // 257).astype(np.uint8)


def _from_deep_colours(image, source, orient, warn):
    """An image of 8 bits of one whose file has 16."""
    image_module, _ = pillow()
    pixels = _samples(image).astype(np.int64)
    try:
        pixels = pixels * 256 + _samples(_open(source, orient, warn, low_bytes=True))
    except _NoLowBytes:
        pixels = pixels * 257
    if image.mode != "CMYK":  # where low values are bright
        transparency = image.mode in ("LA", "RGBA")
        colours = pixels[..., :-1] if transparency else pixels
        _check_range(source, image.mode, int(colours.max()), warn)
    mode = "RGBA" if image.info["hidden"] else image.mode
    return image_module.frombytes(mode, image.size, (pixels // 257).astype(np.uint8).tobytes())


def _by_tifffile(source, channels, orient, warn, error):
    """An image of a TIFF with an `error` of Pillow's."""
    image_module, _ = pillow()
    try:
        pixels = read_tiff(_stream(source), channels, orient)
    except ImportError as missing:
        raise OSError(f"{error}; with `pip install tifffile` more TIFFs are read") from missing
    if pixels.dtype == np.uint16:
        pixels = _scaled(pixels, source, "uint16", warn)
    return image_module.fromarray(pixels[..., 0] if channels == 1 else pixels)


def orientation(source: str | os.PathLike | bytes) -> int:
    """The EXIF orientation of a picture: 1 is upright, or that there is none; from 5 on width and height are exchanged."""
    image_module, _ = pillow()
    try:
        with image_module.open(_stream(source)) as image:
            return _orientation(image)
    except Exception:  # whatever is wrong with the file, reading the picture tells
        return 1


def _orientation(image):
    value = image.getexif().get(0x0112, 1)
    return value if value in range(1, 9) else 1


def decode_image(
    source: str | os.PathLike | bytes,
    channels: int = 3,
    orient: bool = True,
    warn: Callable = warnings.warn,
):
    """Decodes a picture of any format and colour mode that Pillow reads.

    Pictures of 16 bits, and grey whole numbers of 32 bits, are scaled from 0..65535 to 0..255, whatever part of that range they
    use: a range of its own for each would make pictures inconsistent. The fourth channel of a TIFF is taken as stored, also where
    the file doesn't call it transparency. TIFFs that Pillow does not know are read by tifffile, if it is installed.

    Args:
        source: Path of the file, or its bytes.
        channels: int, 1 (grey), 3 (RGB) or 4 (RGBA). Defaults to `3`.
        orient: bool, whether to turn the picture as its EXIF orientation says. Defaults to `True`.
        warn: Callable, told if the scaling leaves hardly a grey level or EXIF data is damaged. Defaults to `warnings.warn`.

    Returns:
        A Pillow image in mode L, RGB or RGBA.

    Raises:
        OSError: If the file is damaged or of an unknown format.
        ValueError: If its pixels have no 8- or 16-bit range to scale from, or would all become black, or it holds several
            pictures.
    """
    image_module, _ = pillow()
    try:
        image = _open(source, orient, warn)
    except image_module.UnidentifiedImageError as error:
        if not _is_tiff(source):
            raise
        return _by_tifffile(source, channels, orient, warn, error)
    if channels == 4 and image.info["samples"] > 4:
        raise ValueError(f"it has {image.info['samples']} channels, not 4")
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow would clip 16-bit grey at 255 instead of scaling it.
        pixels = np.asarray(image)
        if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(
                f"its pixels (mode {image.mode!r}, {pixels.min()} to {pixels.max()}) are not 8- or "
                "16-bit; save it as an 8-bit PNG"
            )
        image = image_module.fromarray(_scaled(pixels, source, image.mode, warn))
    elif image.info["deep"]:
        image = _from_deep_colours(image, source, orient, warn)
    elif image.info["hidden"] and channels == 4:
        image = image_module.frombytes("RGBA", image.size, _samples(image).tobytes())
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the way that Pillow does not warn about
    return image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])


def _is_tiff(source):
    if isinstance(source, bytes):
        return source[:4] in _TIFF_BEGINS
    with open(source, "rb") as file:
        return file.read(4) in _TIFF_BEGINS


def _check_range(source, mode, highest, warn):
    """Tells of a picture that scaling 0..65535 to 0..255 robs of its values."""
    if 0 < highest < 257:
        raise ValueError(
            f"its pixels (mode {mode!r}) reach only {highest}: scaled from 0..65535 to 0..255 it would be black; "
            + ("save it as an 8-bit PNG" if highest < 256 else "rescale it to the full range")
        )
    if 0 < highest < 257 * _FEW_LEVELS:
        warn(
            FewLevels(
                f"{_name(source)}: its 16-bit values reach only {highest}. 0..65535 is scaled to 0..255, which leaves it "
                f"{highest // 257 + 1} grey levels. If your pictures hold fewer bits (12-bit microscopy or CT), multiply all of them by "
                "one factor that brings them to the full range, or give arrays in 0..255. Further pictures are not told."
            )
        )


def decode_mask(source: str | os.PathLike | bytes, colours: bool = False, orient: bool = True):
    """Decodes a mask to its stored values: palette indices, grey values or colours.

    Args:
        source: Path of the file, or its bytes.
        colours: bool, whether classes are RGB colours, not numbers. Defaults to `False`.
        orient: bool, whether to turn the mask as its EXIF orientation says. Defaults to `True`.

    Returns:
        NumPy array of integers, shape `(height, width)`; a colour (r, g, b) is the number
        `r * 65536 + g * 256 + b`.

    Raises:
        OSError: If the file is damaged or of an unknown format.
        ValueError: If it is coloured and `colours` is false, holds fractions, or is more than one picture.
    """
    mask = _open(source, orient)
    if mask.info["deep"]:
        raise ValueError("its colours have 16 bits; save the mask as a grey or an 8-bit PNG")
    if mask.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        mask = mask.convert("RGB")  # black is three zeros
    if colours:
        red, green, blue = np.moveaxis(np.asarray(mask.convert("RGB")).astype(np.int32), -1, 0)
        return red * 65536 + green * 256 + blue
    values = np.asarray(mask)
    if values.ndim == 3:
        colour = values[..., : 1 if mask.mode in ("LA", "PA") else 3]  # without transparency
        if (colour != colour[..., :1]).any():
            raise ValueError(
                f"it is a colour picture (mode {mask.mode!r}), not one value a pixel; give `labels` "
                "with a class for each (red, green, blue)"
            )
        values = colour[..., 0]
    if values.dtype.kind == "f" and ((values % 1 != 0) | (np.abs(values) > _WHOLE)).any():
        raise ValueError("it holds fractions; save the mask as an integer PNG or TIFF")
    return values.astype(np.int32)
