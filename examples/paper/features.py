"""The features of a frozen encoder, computed once for a model's training where that is possible and they fit."""

from pathlib import Path

from paper import pictures
from paper.recipes import MODELS
from paper.training import read_history

import tl_unet


def cached_features(model, name: str, parts, options, output: Path, where: str):
    """A filled feature cache for a model's training, or `None` if it is trained as a whole.

    Args:
        model: as `compiled_model` returns.
        name: the model's name.
        parts: the pictures.
        options: the run's `Options`.
        output: directory of the run.
        where: `"auto"`, `"disk"` or `"off"`.

    Returns:
        A `tl_unet.FeatureCache` that holds the training and validation pictures, or `None`.
    """
    done = len(read_history(output / "history" / f"{name}.csv").get("epoch", []))
    # Filling the cache costs what it saves in an epoch or two.
    if where == "off" or not MODELS[name].freeze or options.augment or options.epochs - done < 2:
        return None
    count = sum(len(parts[part].names) for part in ("train", "validation"))
    needed = count * tl_unet.feature_bytes(model, (options.size, options.size))
    folder = output / "features" / name if where == "disk" else None
    cache = tl_unet.FeatureCache(model, directory=folder)
    size = f"the encoder's features of {count} pictures take {needed / 1e9:.2f} GB"
    if cache.max_bytes is None or needed > cache.max_bytes:
        if where == "disk":
            raise OSError(f"--feature-cache disk: {size}, and the disk has no room for them.")
        print(f"No feature cache: {size}", flush=True)
        return None
    print(f"Feature cache: {size}", flush=True)
    # Read anew, since each pass through a shuffled part changes the order of the next one: a run must not depend on the cache.
    fresh = pictures.load(options)
    for part in ("train", "validation"):
        cache.add(fresh[part].dataset, verbose=0)
    return cache
