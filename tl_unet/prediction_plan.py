"""What `predict_files` will do, known before the first picture: how pictures are read, and which files are written for each.

All that can be wrong with that is an error here, and not after hours.
"""

import importlib
import os
from collections.abc import Iterable
from pathlib import Path

from tl_unet.inference import resolve_tiles
from tl_unet.pictures import TIFF, find_pictures


def working_size(model, size=None):
    """The size to which pictures are resized for a model.

    Args:
        model: `keras.Model`.
        size: int, `(height, width)` or `None`, what is wanted. Defaults to `None`.

    Returns:
        `(height, width)`, or `None` for pictures as they are.

    Raises:
        ValueError: if the model takes pictures of another size only.
    """
    size = (size, size) if isinstance(size, int) else size and tuple(size)
    fixed = tuple(model.input_shape[1:3])
    if None in fixed:
        return size
    if size not in (None, fixed):
        raise ValueError(f"The model takes pictures of {fixed} only; received size={size}.")
    return fixed


def plan_reading(model, size=None, tile=None, overlap=None, batch_size=None) -> dict:
    """How pictures come before a model: resized to one size, or in tiles.

    Args:
        model: `keras.Model`.
        size: as in `predict_files`. Defaults to `None`.
        tile: as there. Defaults to `None`.
        overlap: as there. Defaults to `None`.
        batch_size: as there. Defaults to `None`.

    Returns:
        A dict: either `size`, `(height, width)`; or `tile_size`, `(height, width)`, `overlap` and `batch_size`, arguments of `predict_tiled`.

    Raises:
        ValueError: if an argument is out of range, both `size` and `tile` are given, `overlap` or `batch_size` is where pictures are
            resized, or the model takes another size only.
    """
    if tile is None:
        size = working_size(model, size)
    elif size is not None:
        raise ValueError(
            f"`size` resizes pictures and `tile` does not: give one of them. Received: size={size}, tile={tile}."
        )
    if size is not None:
        for name, value in {"overlap": overlap, "batch_size": batch_size}.items():
            if value is not None:
                raise ValueError(
                    f"`{name}` is that of tiles, but pictures are resized, to {tuple(size)} (height, width), and go one by one: give "
                    f"`tile` too, or leave it out. Received: {name}={value}."
                )
        return {"size": size}
    sides, overlap = resolve_tiles(512 if tile is None else tile, overlap)
    fixed = tuple(model.input_shape[1:3])
    if any(wanted not in (None, side) for wanted, side in zip(fixed, sides, strict=True)):
        raise ValueError(
            f"The model takes tiles of {fixed} (height, width) only; received tile={tile}. Give that, or no tile: then pictures are "
            "resized to it."
        )
    return {
        "tile_size": sides,
        "overlap": overlap,
        "batch_size": 4 if batch_size is None else batch_size,
    }


def plan_targets(
    sources: Iterable, output, *, overlay=False, probabilities=False, overwrite=False
) -> dict[Path, Path]:
    """Which mask file each picture will get.

    Args:
        sources: as in `predict_files`.
        output: the folder for the masks.
        overlay: bool, whether each mask gets the file of `overlay_path`, too. Defaults to `False`.
        probabilities: bool, whether it gets that of `probabilities_path`. Defaults to `False`.
        overwrite: bool, whether files that are there may be replaced. Defaults to `False`.

    Returns:
        A dict from each picture to its mask's path, in order.

    Raises:
        FileNotFoundError: if a source does not exist or a folder holds no picture.
        FileExistsError: if a file to write is there already.
        ValueError: if there is nothing to do, two pictures would get the same file, or a file would overwrite a picture.
    """
    output = Path(output)
    targets, taken = {}, {}
    for source, name in _named_pictures(sources, output).items():
        ending = ".tif" if source.suffix.lower() in TIFF else ".png"
        target = output / name.with_suffix(ending)
        files = _files(target, overlay, probabilities)
        if not taken.keys().isdisjoint(files):  # a.jpg beside a.png, a.png beside a_overlay.png
            target = output / name.parent / f"{name.name}{ending}"
            files = _files(target, overlay, probabilities)
        for file in files:
            if file in taken:
                raise ValueError(
                    f"{source} and {taken[file]} would get the same file, {file}: predict them one folder at a time, each into an "
                    "output folder of its own."
                )
            taken[file] = source
        targets[source] = target
    _check_overwritten(taken, overwrite)
    return targets


def overlay_path(mask: Path) -> Path:
    """The file of the mask on its picture, beside a mask's file."""
    return mask.with_name(f"{mask.stem}_overlay.png")


def probabilities_path(mask: Path) -> Path:
    """The file of the probabilities, beside a mask's file."""
    return mask.with_name(f"{mask.stem}_probabilities.tif")


def _files(mask, overlay, probabilities):
    """All files that a picture gets."""
    return [
        mask,
        *([overlay_path(mask)] if overlay else []),
        *([probabilities_path(mask)] if probabilities else []),
    ]


def _named_pictures(sources, output):
    """Each picture with its path below the output folder."""
    names = {}
    for source in map(Path, sources):
        if source.is_dir():
            pictures = find_pictures(source, without=output)
            if not pictures:
                raise FileNotFoundError(f"There is no picture in {source}.")
            names |= {picture: picture.relative_to(source) for picture in pictures}
        elif source.is_file():
            names[source] = Path(source.name)
        else:
            raise FileNotFoundError(f"There is no file or folder {source}.")
    if not names:
        raise ValueError("There is no picture to predict.")
    return names


def _check_overwritten(files, overwrite):
    """Raises an error if a file, given with its picture, would replace one that is there."""
    existing = [file for file in files if os.path.lexists(file)]
    # By what they are on the disk: some disks take the same name in capitals.
    pictures = {_identity(source) for source in files.values()} if existing else set()
    for file in existing:
        if file.exists() and _identity(file) in pictures:
            raise ValueError(
                f"What is predicted of {files[file]} would overwrite the picture {file}: choose another output folder."
            )
    if existing and not overwrite:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise FileExistsError(
            f"{existing[0]}{more} would be overwritten: choose another output folder, or allow it (--overwrite, or overwrite=True)."
        )


def _identity(path):
    status = path.stat()
    return status.st_dev, status.st_ino


def check_packages(targets, probabilities, channels) -> None:
    """Raises `ImportError` for what writing and reading would miss: before the first picture, not after it."""
    needed = {}
    if probabilities or any(target.suffix == ".tif" for target in targets.values()):
        needed["tifffile"] = "TIFF files"
    if channels not in (1, 3, 4):
        needed |= dict.fromkeys(("tifffile", "zarr"), f"pictures of {channels} channels")
    for package, purpose in needed.items():
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f'{purpose} need {package}: `pip install {package}`, or `pip install "tl-unet[cli]"` with all that the command line uses.'
            ) from error
