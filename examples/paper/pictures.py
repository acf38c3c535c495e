"""The pictures of a run: their three parts, and what is in them."""

import numpy as np
from paper.options import PICTURES

from tl_unet.data import Subset, oxford_pets, shapes


def load(options) -> dict[str, Subset]:
    """The parts "train", "validation" and "test" that the options ask for.

    Args:
        options: the run's `Options`.

    Returns:
        A dict of `tl_unet.data.Subset`.
    """
    if options.data != "shapes":
        return oxford_pets(
            options.data,
            size=options.size,
            batch_size=options.batch_size,
            limit=options.limit,
            augment=options.augment,
            seed=options.seed,
        )
    count = options.limit or PICTURES
    return {
        part: shapes(
            count if part == "train" else count // 3,
            size=options.size,
            batch_size=options.batch_size,
            seed=3 * options.seed + offset,  # no picture is in two parts
            shuffle=part == "train",
            augment=options.augment and part == "train",
        )
        for offset, part in enumerate(("train", "validation", "test"))
    }


def composition(parts: dict[str, Subset], options) -> dict[str, dict]:
    """What each part holds: pictures, dogs and cats (in real data), and the share of the foreground.

    Args:
        parts: as `load` returns.
        options: the run's `Options`.

    Returns:
        A dict of dicts, ready for JSON. The share of an augmented part varies from epoch to epoch and is `None`.
    """
    found = {}
    for part, (dataset, names) in parts.items():
        found[part] = {"pictures": len(names)}
        if options.data != "shapes":
            # The archive's own convention: the names of cats begin with a capital letter.
            cats = sum(name[0].isupper() for name in names)
            found[part] |= {"dogs": len(names) - cats, "cats": cats}
        fixed = not (options.augment and part == "train")
        found[part]["foreground"] = _foreground(dataset) if fixed else None
    return found


def _foreground(dataset) -> float:
    shares = [mask.numpy().mean((1, 2, 3)) for _, mask in dataset]
    return float(np.concatenate(shares).mean())


def examples(parts: dict[str, Subset], count: int):
    """The first `count` test pictures.

    Args:
        parts: as `load` returns.
        count: how many at most.

    Returns:
        Arrays of images and masks, and a list of names.
    """
    subset = parts["test"]
    image, mask = next(iter(subset.dataset.unbatch().batch(count)))
    return image.numpy(), mask.numpy(), subset.names[:count]
