"""JPEGs and masks of a camera's kind of size, made from noise, for the timing of input pipelines."""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image


def write(count: int) -> Path:
    """Writes `images/*.jpg` and `masks/*.png` of 500x375 pixels into a temporary directory.

    Args:
        count: how many of each.

    Returns:
        The directory.
    """
    folder = Path(tempfile.mkdtemp())
    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for number in range(count):
        # Coarse noise, smoothed: about as many bytes as a photograph.
        coarse = Image.fromarray(random.integers(0, 256, (94, 125, 3), np.uint8))
        image = coarse.resize((500, 375), Image.Resampling.BICUBIC)
        image.save(folder / "images" / f"{number:03d}.jpg", quality=90)
        mask = np.asarray(image.convert("L")) > 128
        Image.fromarray(255 * mask.astype("uint8")).save(folder / "masks" / f"{number:03d}.png")
    return folder
