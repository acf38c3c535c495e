"""Oxford-IIIT Pet: cats and dogs with a trimap each, from TFDS or from the official archives.

Use it to train or compare models on the data of the paper, in a split that is the same on every
machine and from either source. It does not download the archives itself; TFDS does.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from tl_unet.classes import IGNORE
from tl_unet.data.labels import LabelTable
from tl_unet.data.pipeline import Subset, build_pairs, check_size

# A trimap stores 1 for the animal, 2 for the background and 3 for the border between them.
_BORDERS = {
    "animal": {1: 1, 2: 0, 3: 1},
    "background": {1: 1, 2: 0, 3: 0},
    "ignore": {1: 1, 2: 0, 3: IGNORE},
    "class": {1: 1, 2: 0, 3: 2},
}

# A picture trains if the SHA-256 of its name is below the first bound, validates if it is below the
# second, and else tests. The bounds are chosen to give the paper's 2210 and 738.
_TRAIN_BELOW, _VALIDATION_BELOW = "9845", "ceab"

# With a head box, but in none of the archive's lists, so TFDS has not got them. They test: this
# way training and validation are the same pictures from either source.
_UNLISTED = frozenset(
    f"{breed}_{number}"
    for breed, numbers in {
        "Bombay": (11, 189, 190, 192),
        "Egyptian_Mau": (129, 183),
        "Siamese": (203,),
        "english_cocker_spaniel": (162, 163, 164, 179),
        "newfoundland": (152, 153, 154, 155),
    }.items()
    for number in numbers
)

# (Nearly) the same picture under several names: a group goes into one part as a whole.
_NEAR_DUPLICATES = tuple(
    tuple(f"{breed}_{number}" for number in group.split())
    for breed, groups in {
        "Abyssinian": ("11 177", "122 172"),
        "Bombay": (
            *("100 11 192", "107 132 19", "113 157", "114 139", "136 150"),
            *("164 189", "185 190"),
        ),
        "Egyptian_Mau": ("10 183",),
        "Siamese": ("196 203",),
        "english_cocker_spaniel": ("151 162", "152 163", "154 164", "176 179"),
        "keeshond": ("101 162", "103 167", "104 170"),
        "newfoundland": ("137 153", "138 154", "139 155", "147 152"),
    }.items()
    for group in groups
)
_GROUPS = {name: group for group in _NEAR_DUPLICATES for name in group}


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _paper_part(name: str) -> str:
    """The part of the paper's split that the picture `name` is in."""
    group = _GROUPS.get(name, (name,))
    if not _UNLISTED.isdisjoint(group):
        return "test"
    if _hash(group[0]) < _TRAIN_BELOW:
        return "train"
    return "validation" if _hash(group[0]) < _VALIDATION_BELOW else "test"


def _place(name: str) -> tuple[bool, str]:
    """Sorts the pictures of a part: like a shuffle, those that TFDS has not got at the end."""
    return name in _UNLISTED, _hash(name)


def _choose_names(listed, source, limit):
    """Sorts the names of each part into the fixed order, splits the paper's set, cuts to `limit`."""
    if "paper" in listed:
        names = listed["paper"]
        listed = {
            part: [name for name in names if _paper_part(name) == part]
            for part in ("train", "validation", "test")
        }
    parts = {part: sorted(names, key=_place) for part, names in listed.items()}
    for part, names in parts.items():
        if not names:
            raise ValueError(
                f"None of the pictures of {source} is in the {part} part; the split is fixed by "
                "their names, so the data set has to be (nearly) complete."
            )
    if limit is not None:
        shares = {part: limit if part == "train" else limit // 3 for part in parts}
        parts = {part: names[: shares[part]] for part, names in parts.items()}
    return parts


def _from_directory(directory, split, choose):
    """Returns the chosen names by part, and by name the paths of the picture and its trimap."""
    images, annotations = directory / "images", directory / "annotations"
    lists = {"train": annotations / "trainval.txt", "test": annotations / "test.txt"}
    wanted = [images, annotations / "trimaps"]
    wanted += lists.values() if split == "official" else [annotations / "xmls"]
    absent = [str(path.relative_to(directory)) for path in wanted if not path.exists()]
    if absent:
        raise FileNotFoundError(
            f"{directory} is not Oxford-IIIT Pet in the layout of its archives: it has no "
            f"{', '.join(absent)}. Unpack images.tar.gz and annotations.tar.gz there, or use "
            "source='tfds'."
        )
    if split == "official":
        listed = {
            part: [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
            for part, path in lists.items()
        }
    else:
        # The archives also hold hidden "._" files.
        names = [xml.stem for xml in (annotations / "xmls").glob("*.xml") if xml.name[0] != "."]
        listed = {"paper": names}
    files = {
        name: (images / f"{name}.jpg", annotations / "trimaps" / f"{name}.png")
        for names in listed.values()
        for name in names
    }
    present = set(images.iterdir()) | set((annotations / "trimaps").iterdir())
    missing = sorted(str(file) for pair in files.values() for file in pair if file not in present)
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} files of split={split!r} are missing, such as "
            f"{', '.join(missing[:3])}. Unpack the archives again, or use source='tfds'."
        )
    return choose(listed), files


def _from_tfds(split, choose, data_dir):
    """Returns the chosen names by part, and by name the bytes of the picture and its trimap."""
    try:
        import importlib_resources  # noqa: F401 - TFDS needs it without saying so
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            "source='tfds' needs tensorflow-datasets and importlib_resources beside it. Install "
            'them with `pip install "tl-unet[examples]"`, or give the directory of the unpacked '
            "archives as `source`."
        ) from error
    raw = dict.fromkeys(("image", "segmentation_mask"), tfds.decode.SkipDecoding())

    def examples(part):
        dataset = tfds.load("oxford_iiit_pet:4.*.*", split=part, data_dir=data_dir, decoders=raw)
        for example in dataset.as_numpy_iterator():
            yield Path(example["file_name"].decode()).stem, example

    if split == "paper":
        # Without a head box TFDS stores an empty one; its test split has none at all.
        listed = {
            "paper": [name for name, example in examples("train") if any(example["head_bbox"])]
        }
    else:
        listed = {part: [name for name, _ in examples(part)] for part in ("train", "test")}
    parts = choose(listed)
    chosen = {name for names in parts.values() for name in names}
    # A second reading, so that a `limit` does not hold every picture in memory.
    files = {
        name: (example["image"], example["segmentation_mask"])
        for part in (("train",) if split == "paper" else ("train", "test"))
        for name, example in examples(part)
        if name in chosen
    }
    return parts, files


def oxford_pets(
    source: str | os.PathLike = "tfds",
    *,
    split: str = "paper",
    size: int | tuple[int, int] = 256,
    batch_size: int = 32,
    border: str = "animal",
    limit: int | None = None,
    augment: bool | Callable = False,
    cache: bool | str | os.PathLike = True,
    seed: int = 0,
    data_dir: str | os.PathLike | None = None,
) -> dict[str, Subset]:
    """Loads Oxford-IIIT Pet for segmenting the animal.

    `split="paper"` takes the pictures with a head box: 3,686 in the archives, 3,671 in TFDS. Which
    part one is in depends on its name alone (its SHA-256), so the parts hold the same pictures from
    either source: 2,210 train and 738 validate; 738 test, or 723 through TFDS, which lacks the 15
    pictures that no list of the archive names. Near-duplicates share a part. Seven of the 3,686
    have an empty mask in the original (Egyptian_Mau_129, 162, 165 and 196, leonberger_18,
    miniature_pinscher_14, saint_bernard_108); the paper's counts include them, so they stay. TFDS
    re-encodes 12 faulty pictures; all others are equal, pixel by pixel, from either source.

    Args:
        source: `"tfds"` (`oxford_iiit_pet:4.*.*`, downloaded by TFDS at the first use), or the
            directory that holds the archives' `images/` and `annotations/`. Defaults to `"tfds"`.
        split: `"paper"`, or `"official"` for the archive's own `trainval.txt` and `test.txt`.
            Defaults to `"paper"`.
        size: int or `(height, width)` to resize to. Defaults to `256`.
        batch_size: int, images in a batch. Defaults to `32`.
        border: What a pixel of the border is: `"animal"` (1, as in the paper), `"background"` (0),
            `"ignore"` (255) or `"class"` (0 background, 1 animal, 2 border, as int32). Defaults to
            `"animal"`.
        limit: int of at least 3, for a quick look: at most so many training pictures and a third
            as many of each other part, the first in the split's order. `None` takes all. Defaults
            to `None`.
        augment: bool, or a callable such as `augmentation(...)`, to change the training pictures
            at random. Defaults to `False`.
        cache: `True` keeps the resized pictures in memory (0.26 MB each at 256), a path in files in
            that directory, `False` decodes in each epoch. Defaults to `True`.
        seed: int, of the training order and the augmentation, not of the split. TensorFlow mixes it with its global seed
            (`keras.utils.set_random_seed`) of the moment. Defaults to `0`.
        data_dir: Where TFDS keeps its data sets; `None` is its own default. Defaults to `None`.

    Returns:
        A dict of `Subset`s: `"train"`, `"validation"`, `"test"`, or `"train"`, `"test"` for the
        official split. The training part comes in a new order in each epoch, the others in the
        order of `names`.

    Raises:
        FileNotFoundError: If the directory lacks a part of the archives.
        ImportError: If TFDS is wanted and not installed.
        ValueError: If an argument is out of range, or pictures cannot be read (all are listed; with `cache=False` the first one
            is an error of TensorFlow's while the data set is gone through).

    Example:

    >>> from tl_unet.data import oxford_pets
    >>> pets = oxford_pets("pets", size=128, limit=300)  # doctest: +SKIP
    >>> {part: len(subset.names) for part, subset in pets.items()}  # doctest: +SKIP
    {'train': 300, 'validation': 100, 'test': 100}

    Reference:

    - [Cats and Dogs (Parkhi et al., 2012)](https://www.robots.ox.ac.uk/~vgg/data/pets/)
    """
    if split not in ("paper", "official"):
        raise ValueError(f"`split` must be 'paper' or 'official'. Received: split={split!r}")
    if border not in _BORDERS:
        raise ValueError(f"`border` must be one of {list(_BORDERS)}. Received: border={border!r}")
    if limit is not None and limit < 3:
        raise ValueError(f"`limit` must be at least 3, or None. Received: limit={limit}")
    size = check_size(size)
    labels = LabelTable(_BORDERS[border])

    def choose(listed: dict[str, list[str]]) -> dict[str, list[str]]:
        return _choose_names(listed, source, limit)

    if os.fspath(source) == "tfds":
        parts, files = _from_tfds(split, choose, data_dir)
    else:
        parts, files = _from_directory(Path(source), split, choose)
    return {
        part: build_pairs(
            names,
            [files[name] for name in names],
            labels,
            size=size,
            channels=3,
            as_stored=True,
            batch_size=batch_size,
            seed=seed,
            shuffle=part == "train",
            augment=augment if part == "train" else False,
            cache=cache,
            verify=False,  # published pictures; reading 7,000 twice would only cost time
            where=f"the {part} part of {source}",
        )
        for part, names in parts.items()
    }
