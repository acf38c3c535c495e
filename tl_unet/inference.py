"""Prediction beyond `model.predict`: images larger than memory, and averages over changed views of an image.

`predict_tiled` cuts an image into overlapping tiles and blends their masks; `predict_augmented` averages a model's masks of
flipped, turned, resized or padded copies. Both take any `keras.Model` that maps images to masks of the same size, on any backend.
"""

import itertools
import numbers
import os
from collections.abc import Callable, Iterable

import keras
import numpy as np

from tl_unet.tiffs import Unreadable, open_tiff

_AUGMENTATIONS = ("horizontal_flip", "vertical_flip", "rotation", "scale", "padding")
_SCALES = (0.8, 1.25)
_PADDING = 16  # half the stride of an encoder's last map: its cells lie between those of the image as it is


def predict_tiled(
    model,
    image,
    tile_size=512,
    overlap=None,
    batch_size=4,
    augment=False,
    *,
    output=None,
    progress=None,
):
    """Predicts the mask of one image of any size, tile by tile, in bounded memory.

    Tiles overlap, and where they do their masks are blended with smooth weights that sum to one, so there are no seams. Away
    from its borders a tile's mask is that of the whole image as far as the network's field of view reaches into the tile. Tiles
    lie evenly, all of one size; an image that is not larger than a tile is predicted as a whole.

    Args:
        model: `keras.Model` from images `(batch, height, width, channels)` to masks of the same sides.
        image: array of shape `(height, width, channels)` or `(height, width)`, values as the model wants them (raw 0..255
            for `build_unet`); or anything with a `shape` that gives arrays when sliced, such as `np.memmap`, a Zarr array or an
            HDF5 data set; or the path of a TIFF file, which is read by windows (needs `tifffile` and `zarr`).
        tile_size: int or `(height, width)`, sides of a tile in pixels. A multiple of the encoder's stride, such as 32, avoids
            padding inside the model. Defaults to `512`.
        overlap: int, by how many pixels neighbours overlap at least, at most half a tile. Defaults to `None`: 64, or a quarter of
            the shorter side of tiles for which that is less.
        batch_size: int, tiles to predict at once, at most. Defaults to `4`.
        augment: as in `predict_augmented`; applied to each tile. Defaults to `False`.
        output: array of shape `(height, width, classes)` and a float type to write to, such as an `np.memmap` on disk. Defaults to
            `None`: a new float32 array.
        progress: callable `progress(done, total)` after each batch, in tiles. Defaults to `None`.

    Returns:
        The masks, `(height, width, classes)`: `output`, or a float32 NumPy array.

    Raises:
        ValueError: if a size or the type of `output` does not fit, the model's masks have other sides than its images, or a TIFF file
            is damaged or holds more than one picture.
        TypeError: if `image` is neither sliceable nor the path of a TIFF file.
        FileNotFoundError: if there is no such file.
        ImportError: if a TIFF file is to be read without `tifffile` and `zarr`.

    Example:

    >>> import numpy as np, tl_unet
    >>> model = tl_unet.build_unet("mobilenetv2", weights=None, freeze=False)
    >>> scene = np.zeros((200, 300, 3), "uint8")
    >>> tl_unet.predict_tiled(model, scene, tile_size=128, overlap=32).shape
    (200, 300, 1)
    """
    image = _opened(image)
    height, width = image.shape[:2]
    tile, overlap = resolve_tiles(tile_size, overlap)
    tile = min(tile[0], height), min(tile[1], width)
    _check_batch_size(batch_size)
    views = _views(augment)
    rows, columns = (
        _positions(length, side, overlap)
        for length, side in zip((height, width), tile, strict=True)
    )
    row_weights, column_weights = (
        _blending(starts, side, length)
        for starts, side, length in zip((rows, columns), tile, (height, width), strict=True)
    )
    total, done = len(rows) * len(columns), 0
    band = None  # the sum of a row of tiles, and what it shares with the next one
    chunks = _batched(len(columns), batch_size)
    for i, top in enumerate(rows):
        for chunk in chunks:
            tiles = np.stack([_window(image, top, columns[j], tile) for j in chunk])
            masks = _predict(model, tiles, views, len(chunks[0]))
            if band is None:
                output = _target(output, (height, width, masks.shape[-1]))
                band = np.zeros((tile[0], width, masks.shape[-1]), "float32")
            for j, mask in zip(chunk, masks, strict=True):
                weight = row_weights[i][:, None, None] * column_weights[j][None, :, None]
                band[:, columns[j] : columns[j] + tile[1]] += weight * mask
            done += len(chunk)
            if progress is not None:
                progress(done, total)
        ready = (rows[i + 1] if i + 1 < len(rows) else height) - top
        output[top : top + ready] = band[:ready]
        band = np.concatenate([band[ready:], np.zeros_like(band[:ready])])
    return output


def predict_augmented(model, images, augment=True, batch_size=8):
    """Predicts the mean of a model's masks over changed views of each image (test-time augmentation).

    Each view is predicted, its mask is changed back, and the masks are averaged: probabilities stay probabilities. It costs
    one prediction a view.

    Args:
        model: `keras.Model` from images `(batch, height, width, channels)` to masks of the same sides.
        images: array `(batch, height, width, channels)`, values as the model wants them.
        augment: `True` for `"horizontal_flip"`, `False` for none, or one or several of `"horizontal_flip"`, `"vertical_flip"`,
            `"rotation"` (by 90, 180 and 270 degrees), `"scale"` (to 0.8 and 1.25 of the size) and `"padding"` (by 16 pixels at each
            border, which mirror the image, so that the model sees something beyond it and its strides begin elsewhere); flips and
            rotations combine, to at most eight views, each in every scale, as it is and padded. Use flips, rotations and scales that
            the model has seen in training. Defaults to `True`.
        batch_size: int, images to predict at once, at most. Defaults to `8`.

    Returns:
        float32 NumPy array `(batch, height, width, classes)`.

    Raises:
        ValueError: if an argument has no such value, or the model's masks have other sides than its images.

    Example:

    >>> import numpy as np, tl_unet
    >>> model = tl_unet.build_unet("mobilenetv2", weights=None, freeze=False)
    >>> pictures = np.zeros((2, 64, 64, 3), "float32")
    >>> tl_unet.predict_augmented(model, pictures, ["horizontal_flip", "scale"]).shape
    (2, 64, 64, 1)
    """
    views = _views(augment)
    images = np.asarray(images)
    if images.ndim != 4 or not len(images):
        raise ValueError(
            "`images` must be a batch (batch, height, width, channels) of at least one image; received shape "
            f"{images.shape}. For one image pass image[None]."
        )
    _check_batch_size(batch_size)
    chunks = _batched(len(images), batch_size)
    return np.concatenate(
        [_predict(model, images[chunk], views, len(chunks[0])) for chunk in chunks]
    )


# --- Views ----------------------------------------------------------------------------------------


def _views(augment) -> list[tuple[Callable, Callable]]:
    """Pairs of a change of `(batch, height, width, channels)` arrays and its inverse, the identity among them."""
    if isinstance(augment, str):
        augment = (augment,)
    elif isinstance(augment, bool) or augment is None:
        augment = ("horizontal_flip",) if augment else ()
    elif not isinstance(augment, Iterable):
        raise ValueError(
            f"`augment` must be a bool or of {list(_AUGMENTATIONS)}. Received: {augment!r}"
        )
    wanted = set(augment)
    if unknown := wanted - set(_AUGMENTATIONS):
        raise ValueError(
            f"`augment` knows {list(_AUGMENTATIONS)}. Received: {sorted(map(str, unknown))}"
        )
    flips = [()]
    if "horizontal_flip" in wanted:
        flips.append((2,))
    if "vertical_flip" in wanted:
        flips += [(1, *axes) for axes in list(flips)]
    turns = range(4) if "rotation" in wanted else range(1)
    scales = (1.0, *_SCALES) if "scale" in wanted else (1.0,)
    paddings = (0, _PADDING) if "padding" in wanted else (0,)
    views, seen = [], set()
    for axes, turn, *size in itertools.product(flips, turns, scales, paddings):
        # Both flips are half a turn: what a picture looks like decides whether a view is new.
        key = (_flip_and_turn(np.arange(4).reshape(1, 2, 2, 1), axes, turn).tobytes(), *size)
        if key not in seen:
            seen.add(key)
            views.append(_view(axes, turn, *size))
    return views


def _view(axes, turn, scale, padding):
    around = ((0, 0), (padding, padding), (padding, padding), (0, 0))

    def change(images):
        images = _resize(_flip_and_turn(images, axes, turn), scale)
        return np.pad(images, around, mode="symmetric") if padding else images

    def undo(masks, sides):
        sides = sides[::-1] if turn % 2 else sides
        if padding:
            masks = masks[:, padding:-padding, padding:-padding]
        masks = _resize_to(masks, sides)
        return np.flip(np.rot90(masks, -turn, axes=(1, 2)), axes)

    return change, undo


def _flip_and_turn(images, axes, turn):
    return np.rot90(np.flip(images, axes), turn, axes=(1, 2))


def _resize(images, scale):
    sides = [max(1, round(side * scale)) for side in images.shape[1:3]]
    return _resize_to(images, sides)


def _resize_to(images, sides):
    if tuple(images.shape[1:3]) == tuple(sides):
        return images
    resized = keras.ops.image.resize(
        np.ascontiguousarray(images, "float32"),
        tuple(sides),
        antialias=True,
        data_format="channels_last",
    )
    return keras.ops.convert_to_numpy(resized)


def _predict(model, images, views, batch_size):
    """The mean over the views; a smaller last batch is filled up, so that every backend compiles one shape only."""
    count = len(images)
    if count < batch_size:
        images = np.concatenate([images, np.repeat(images[:1], batch_size - count, axis=0)])
    total = 0.0
    for change, undo in views:
        view = np.ascontiguousarray(change(images))
        masks = np.asarray(keras.ops.convert_to_numpy(model.predict_on_batch(view)), "float32")
        if masks.ndim != 4 or masks.shape[1:3] != view.shape[1:3]:
            raise ValueError(
                f"The model's masks must have the sides of its images: images of shape {view.shape} gave {masks.shape}."
            )
        total = total + undo(masks, images.shape[1:3])
    return (total / len(views))[:count]


# --- Tiles ----------------------------------------------------------------------------------------


def _opened(image):
    """Something with a three-dimensional shape that can be sliced."""
    if isinstance(image, str | os.PathLike):
        image = _tiff(image)
    if not hasattr(image, "shape") or not hasattr(image, "__getitem__"):
        raise TypeError(
            "`image` must be an array, something that can be sliced like one, or the path of a TIFF file; "
            f"received {type(image).__name__}."
        )
    if len(image.shape) not in (2, 3) or 0 in image.shape:
        raise ValueError(
            "`image` must have the shape (height, width, channels) or (height, width), without a batch; "
            f"received {tuple(image.shape)}."
        )
    return image


def _tiff(path):
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        import tifffile

        return open_tiff(path)
    except ImportError as error:
        raise ImportError(
            "Reading a TIFF file by windows needs tifffile and zarr: `pip install tifffile zarr`."
        ) from error
    except tifffile.TiffFileError as error:
        raise TypeError(
            f"{str(path)!r} is no TIFF file ({error}). Read it into an array first, for instance with Pillow."
        ) from error
    except Unreadable as error:
        raise Unreadable(f"{str(path)!r}: {error}") from None


def resolve_tiles(tile_size, overlap=None):
    """The tiles that `predict_tiled` makes, of an image that is larger.

    Args:
        tile_size: as in `predict_tiled`.
        overlap: as there. Defaults to `None`.

    Returns:
        `(height, width), overlap`, in pixels.

    Raises:
        ValueError: if one is not as it should be.
    """
    try:
        height, width = (tile_size, tile_size) if np.isscalar(tile_size) else tile_size
        tile = int(height), int(width)
    except (TypeError, ValueError):
        raise ValueError(
            f"`tile_size` must be an int or (height, width). Received: {tile_size!r}"
        ) from None
    if min(tile) < 1:
        raise ValueError(f"`tile_size` must be positive. Received: {tile_size!r}")
    if overlap is None:
        return tile, min(64, min(tile) // 4)
    if isinstance(overlap, bool) or not isinstance(overlap, numbers.Integral):
        raise ValueError(
            f"`overlap` must be an int, in pixels and not as a share of the tile. Received: {overlap!r}"
        )
    if not 0 <= overlap <= min(tile) / 2:
        raise ValueError(
            f"`overlap` must be at least 0 and at most half a tile. Received: {overlap!r} for tiles of {tile_size!r}"
        )
    return tile, int(overlap)


def _check_batch_size(batch_size):
    if int(batch_size) != batch_size or batch_size < 1:
        raise ValueError(f"`batch_size` must be a positive int. Received: {batch_size!r}")


def _positions(length, side, overlap):
    """Where the tiles begin: the fewest that overlap enough, evenly spread."""
    count = max(1, -(-(length - overlap) // max(1, side - overlap)))
    return np.linspace(0, length - side, count).round().astype(int).tolist()


def _blending(starts, side, length):
    """The weights of each tile along one axis: smooth, and at every pixel they sum to one over the tiles."""
    # A hat without corners; not 0 at its ends, since an image's border belongs to one tile only.
    hat = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    total = np.zeros(length)
    for start in starts:
        total[start : start + side] += hat
    return [(hat / total[start : start + side]).astype("float32") for start in starts]


def _window(image, top, left, tile):
    window = np.asarray(image[top : top + tile[0], left : left + tile[1]])
    return window[..., None] if window.ndim == 2 else window


def _batched(count, size):
    """Indices in the fewest batches of at most `size`, as even as can be: little is predicted only to fill the last one."""
    size = -(-count // -(-count // size))
    return [np.arange(i, min(i + size, count)) for i in range(0, count, size)]


def _target(output, shape):
    if output is None:
        return np.empty(shape, "float32")
    if tuple(output.shape) != shape:
        raise ValueError(f"`output` must have the shape {shape}; received {tuple(output.shape)}.")
    if not np.issubdtype(output.dtype, np.floating):  # probabilities would become 0
        raise ValueError(
            f"`output` must be of a float type, such as float32; received {output.dtype}. Make classes or 0..255 of the masks "
            "afterwards."
        )
    return output
