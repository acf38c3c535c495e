"""Picture files to pixels, by Pillow: a picture has the same ones whichever source it comes from."""

import io
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

_FEW_LEVELS = 16  # of grey, which a picture of 12 bits in 16 keeps


def pillow():
    """Pillow's modules `Image` and `ImageOps`; an ImportError that says how to get them."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(
            "Reading images needs Pillow, which is not installed. Install it with `pip install pillow`."
        ) from error
    return Image, ImageOps


def _open(source: Any, orient: bool):
    """Opens and decodes a file (a path, or its bytes), turned upright if `orient`."""
    image_module, image_ops = pillow()
    image = image_module.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    image.load()  # also closes the file
    if image.format == "GIF":
        image = image.convert("RGB")  # its palette is the writer's, the indices mean nothing
    return image_ops.exif_transpose(image) if orient else image


def decode_image(
    source: str | os.PathLike | bytes,
    channels: int = 3,
    orient: bool = True,
    warn: Callable = warnings.warn,
):
    """Decodes a picture of any format and colour mode that Pillow reads.

    Grey pictures of 16 bits, and whole numbers of 32 bits, are scaled from 0..65535 to 0..255, whatever part of that range they
    use: a range of its own for each would make pictures inconsistent.

    Args:
        source: Path of the file, or its bytes.
        channels: int, 1 (grey), 3 (RGB) or 4 (RGBA). Defaults to `3`.
        orient: bool, whether to turn the picture as its EXIF orientation says. Defaults to `True`.
        warn: Callable, told if the scaling leaves hardly a grey level. Defaults to `warnings.warn`.

    Returns:
        A Pillow image in mode L, RGB or RGBA.

    Raises:
        OSError: If the file is damaged or of an unknown format.
        ValueError: If its pixels have no 8- or 16-bit range to scale from, or would all become black.
    """
    image_module, _ = pillow()
    image = _open(source, orient)
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow would clip 16-bit grey at 255 instead of scaling it.
        pixels = np.asarray(image)
        if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(
                f"its pixels (mode {image.mode!r}, {pixels.min()} to {pixels.max()}) are not 8- or "
                "16-bit; save it as an 8-bit PNG"
            )
        _check_range(source, image.mode, int(pixels.max()), warn)
        image = image_module.fromarray((pixels.astype(np.int64) // 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the way that Pillow does not warn about
    return image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])


def _check_range(source, mode, highest, warn):
    """Tells of a picture that scaling 0..65535 to 0..255 robs of its values."""
    if 0 < highest < 257:
        raise ValueError(
            f"its pixels (mode {mode!r}) reach only {highest}: scaled from 0..65535 to 0..255 it would be black; "
            + ("save it as an 8-bit PNG" if highest < 256 else "rescale it to the full range")
        )
    if 0 < highest < 257 * _FEW_LEVELS:
        name = "A picture" if isinstance(source, bytes) else os.fspath(source)
        warn(
            f"{name}: its 16-bit values reach only {highest}. 0..65535 is scaled to 0..255, which leaves it {highest // 257 + 1} grey "
            "levels. If your pictures hold fewer bits (12-bit microscopy or CT), multiply all of them by one factor that brings them "
            "to the full range, or give arrays in 0..255. Further pictures are not told."
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
        ValueError: If it is coloured and `colours` is false, or holds fractions.
    """
    mask = _open(source, orient)
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
    if values.dtype.kind == "f":
        raise ValueError("it holds fractions; save the mask as an integer PNG or TIFF")
    return values.astype(np.int32)
