"""From picture files to masks in files: what the command `tl-unet predict` runs.

`predict_files` reads pictures of any kind that Pillow or tifffile read, however large, and writes a mask of the picture's size for
each: PNG, or for a TIFF a TIFF with the same place on the map. For arrays use `model.predict` or `predict_tiled`.
"""

import dataclasses
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from tl_unet.classes import check_decidable, check_threshold, decide
from tl_unet.inference import predict_augmented, predict_tiled
from tl_unet.pictures import TIFF, Unreadable, read_picture, resize_picture, warn_once
from tl_unet.prediction_plan import (
    check_packages,
    overlay_path,
    plan_reading,
    plan_targets,
    probabilities_path,
)
from tl_unet.runs import replacing

# ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory, GeoDoubleParams, GeoAsciiParams: where on Earth it is.
_GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
_IN_MEMORY = 2**27  # probabilities; above that they lie in a file
_ROWS = 1024  # of a mask at a time


@dataclasses.dataclass(frozen=True)
class PredictedFile:
    """What became of a picture.

    Args:
        source: path of the picture.
        mask: path of its mask, or `None` if it failed.
        error: str, why it failed, or `None`.
        foreground: float, the share of pixels that are not background, or `None`.
    """

    source: Path
    mask: Path | None = None
    error: str | None = None
    foreground: float | None = None


def predict_files(
    model,
    sources: Iterable,
    output,
    *,
    size=None,
    tile=None,
    overlap=None,
    batch_size=None,
    augment=False,
    threshold=0.5,
    overlay=False,
    probabilities=False,
    overwrite=False,
    progress: Callable | None = None,
) -> list[PredictedFile]:
    """Predicts the masks of picture files and writes them.

    A mask has its picture's name and size (of two pictures that would get a file of one name, the second's keep its ending, as in
    `a.jpg.png`); EXIF orientations are respected, so it lies on the picture as viewers show it. With one
    class it holds 0 and 255, with more the class numbers (a PNG shows them in colours). The masks of pictures in a folder lie in
    `output` as the pictures lie in the folder. A TIFF picture gives a TIFF mask with the same geographic tags.

    Args:
        model: `keras.Model` from images to masks of probabilities (no logits); several classes exclude one another.
        sources: paths of pictures and of folders, in which all pictures are taken, in subfolders too.
        output: str or path, the folder for the masks.
        size: int or `(height, width)`: pictures are resized to it and masks back. Best where the model was trained on whole pictures
            of that size. Defaults to `None`: a model that takes pictures of one size only gets them resized to that, any other
            one gets them as they are, in tiles.
        tile: int or `(height, width)`, sides of the tiles, in which pictures are predicted as they are. A model that takes pictures of
            one size only takes tiles of that size only. Defaults to `None`: 512.
        overlap: int, pixels by which tiles overlap, as in `predict_tiled`. Only of tiles: where pictures are resized it is an
            error. Defaults to `None`: 64, or a quarter of small tiles.
        batch_size: int, tiles at once. Only of tiles, as `overlap`. Defaults to `None`: 4.
        augment: as in `predict_augmented`. Defaults to `False`.
        threshold: float from 0 to 1, above which one class is foreground; with more classes it is an error. Defaults to `0.5`.
        overlay: bool, whether to write `NAME_overlay.png` too, the mask on its picture. Defaults to `False`.
        probabilities: bool, whether to write `NAME_probabilities.tif` too: float32, one page a class. Defaults to `False`.
        overwrite: bool, whether files that are there already may be replaced. Defaults to `False`: that is an error before anything is
            predicted.
        progress: callable `progress(file, done, total)` with a `PredictedFile` after each. Defaults to `None`.

    Returns:
        A list of `PredictedFile`. A file that cannot be read or written has an `error` and does not stop the others.

    Raises:
        FileNotFoundError: if a source does not exist or holds no picture.
        FileExistsError: if a file to write is there already, without `overwrite`.
        ValueError: if a file would overwrite a picture or that of another picture, an argument is out of range, does not fit the model
            or would be ignored, or the model gives logits, or its classes may overlap.
        ImportError: if `tifffile` is missing and a picture is a TIFF or `probabilities` are to be written, or `zarr` for a model of
            other than 1, 3 or 4 channels.
        OSError: if the output folder can't be made or written to.
    """
    check_decidable(model)
    check_threshold(threshold, model.output_shape[-1])
    reading = plan_reading(model, size, tile, overlap, batch_size)
    targets = plan_targets(
        sources, output, overlay=overlay, probabilities=probabilities, overwrite=overwrite
    )
    check_packages(targets, probabilities, model.input_shape[-1])
    Path(output).mkdir(parents=True, exist_ok=True)
    probe = tempfile.TemporaryFile(dir=output)  # noqa: SIM115  (not writable is known now, not after hours)
    probe.close()
    found, warn = [], warn_once()
    for source, target in targets.items():
        try:
            mask, share = _predict_file(
                model,
                source,
                target,
                reading=reading,
                augment=augment,
                threshold=threshold,
                overlay=overlay,
                probabilities=probabilities,
                warn=warn,
            )
            found.append(PredictedFile(source, mask, None, share))
        except Unreadable as error:
            found.append(PredictedFile(source, error=str(error)))
        except OSError as error:
            found.append(PredictedFile(source, error=f"its mask can't be written: {error}"))
        if progress is not None:
            progress(found[-1], len(found), len(targets))
    return found


def _predict_file(
    model, source, target, *, reading, augment, threshold, overlay, probabilities, warn
):
    image = read_picture(source, model.input_shape[-1], lazily="tile_size" in reading, warn=warn)
    if "tile_size" in reading:
        _check_not_smaller(image, model.input_shape[1:3])
    with tempfile.TemporaryDirectory() as folder:
        shape = (*image.shape[:2], model.output_shape[-1])
        if "tile_size" in reading:
            masks = _room_for(shape, folder)
            masks = predict_tiled(model, image, augment=augment, output=masks, **reading)
        else:  # as in the training, and the probabilities brought to the picture's size
            small = resize_picture(np.asarray(image), reading["size"])
            small_masks = predict_augmented(model, small[None], augment, batch_size=1)[0]
            masks = resize_picture(small_masks, shape[:2])
        classes = np.empty(shape[:2], "uint8")
        for top in range(0, shape[0], _ROWS):
            classes[top : top + _ROWS] = decide(masks[top : top + _ROWS], threshold)
        _write_mask(classes, target, source, shape[-1])
        if overlay:
            _write_overlay(image, classes, target, shape[-1])
        if probabilities:
            _write_probabilities(masks, target, source)
        del masks
    return target, float(np.count_nonzero(classes) / classes.size)


def _room_for(shape, folder):
    """An array for probabilities in a file of `folder`; `None` if they are few enough for the memory."""
    needed, free = 4 * math.prod(shape), shutil.disk_usage(folder).free
    if needed <= _IN_MEMORY:
        return None
    # Writing to a mapped file on a full disk would end the process without a word.
    if needed > free:
        raise OSError(
            f"the probabilities need {needed / 1e9:.2f} GB of room for a while, but only {free / 1e9:.2f} GB are free in "
            f"{os.path.dirname(folder)}; set TMPDIR to a folder on a larger disk"
        )
    return np.memmap(os.path.join(folder, "probabilities"), "float32", "w+", shape=shape)


def _check_not_smaller(image, fixed):
    if any(
        side is not None and side > length
        for side, length in zip(fixed, image.shape[:2], strict=True)
    ):
        raise Unreadable(
            f"it is {image.shape[0]} x {image.shape[1]} (height x width), smaller than the tiles of {tuple(fixed)} that the model takes; "
            "without a tile size it is resized"
        )


# --- Writing --------------------------------------------------------------------------------------


def _write_mask(classes, target, source, number):
    from PIL import Image

    values = classes * np.uint8(255) if number == 1 else classes
    if target.suffix == ".tif":
        import tifffile

        with replacing(target) as beside:
            tifffile.imwrite(beside, values, **_tiff_options(values, source))
        return
    picture = Image.fromarray(values)
    if number > 1:
        from tl_unet.plotting import class_colours

        picture.putpalette(class_colours(number).tobytes())
    with replacing(target) as beside:
        picture.save(beside)


def _write_overlay(image, classes, target, number):
    from PIL import Image

    from tl_unet.plotting import class_colours, overlay

    painted = np.empty((*classes.shape, 3), "uint8")
    strips = [slice(top, top + _ROWS) for top in range(0, len(classes), _ROWS)]
    brightness = _brightness(image, strips)
    for rows in strips:
        pixels = np.clip(np.asarray(image[rows])[..., :3] * brightness, 0, 255).astype("uint8")
        painted[rows] = overlay(pixels, classes[rows], colours=class_colours(number))
    with replacing(overlay_path(target)) as path:
        Image.fromarray(painted).save(path)


def _brightness(image, strips):
    """The factor that brings a picture of other values than bytes to 0..255 (those up to 1 from 0..1): one for all strips."""
    if image.dtype == np.uint8:
        return np.uint8(1)
    most = max(float(np.nanmax(np.asarray(image[rows])[..., :3])) for rows in strips)
    return np.float32(255 / max(most, 1))


def _write_probabilities(masks, target, source):
    import tifffile

    with replacing(probabilities_path(target)) as path:
        pages = np.moveaxis(masks, -1, 0)
        tifffile.imwrite(path, pages, **_tiff_options(pages, source))


def _tiff_options(values, source) -> dict:
    """Arguments of `tifffile.imwrite` for an array that belongs to a picture."""
    # With compression tifffile leaves it to the caller to know that 4 GiB end a TIFF; 32 MiB are for tags, and for noise that grows.
    big = values.nbytes > 2**32 - 2**25
    return {"compression": "zlib", "photometric": "minisblack", "bigtiff": big, **_geo(source)}


def _geo(source) -> dict[str, Sequence]:
    """Arguments of `tifffile.imwrite` that put a picture at the place of another one on the map."""
    if source.suffix.lower() not in TIFF:
        return {}
    import tifffile

    try:
        with tifffile.TiffFile(source) as file:
            tags = [file.pages[0].tags.get(code) for code in _GEO_TAGS]
            found = [
                (tag.code, tag.dtype, tag.count, _stored(file, tag), True)
                for tag in tags
                if tag is not None
            ]
    except tifffile.TiffFileError:
        return {}
    return {"extratags": found}


def _stored(file, tag):
    """The value of a tag. Texts as their bytes: names of maps need not be ASCII, which alone tifffile would write."""
    if tag.dtype != 2:
        return tag.value
    file.filehandle.seek(tag.valueoffset)
    return file.filehandle.read(tag.count)
