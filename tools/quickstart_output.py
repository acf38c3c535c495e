"""Follows docs/quickstart.md on real pets, and keeps what it printed and drew for that page.

    python tools/quickstart_output.py --data oxford_pets/ --weights mobilenetv2_imagenet_notop.weights.h5

Makes the four folders that the page begins with from pictures of Oxford-IIIT Pet, drawn at random, in a temporary directory, and runs there the page's
own Python blocks as they stand, in order. Only two things differ from a reader's session: the ImageNet weights are read from a file in place of a download,
and `fit` prints a line an epoch in place of a bar.
"""

import argparse
import contextlib
import functools
import io
import os
import pathlib
import re
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import numpy as np
import tensorflow as tf
from machine import cores
from PIL import Image

import tl_unet
from tl_unet.runs import replacing

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PICTURES = ("data.png", "curves.png", "predictions.png")


def write_folders(data, work, counts, seed):
    """`train` and `valid` with `images` and `masks` of 0 and 255; the first picture of `valid` is called `first`."""
    names = sorted(path.stem for path in (data / "images").glob("*.jpg"))
    chosen = np.random.default_rng(seed).permutation(names)[: sum(counts.values())]
    start = 0
    for part, count in counts.items():
        for kind in ("images", "masks"):
            (work / part / kind).mkdir(parents=True)
        for name in chosen[start : start + count]:
            shown = "first" if part == "valid" and name == chosen[start] else name
            picture = Image.open(data / "images" / f"{name}.jpg").convert("RGB")
            picture.save(work / part / "images" / f"{shown}.jpg", quality=95)
            trimap = np.asarray(Image.open(data / "annotations" / "trimaps" / f"{name}.png"))
            mask = np.where(trimap == 2, 0, 255).astype("uint8")  # the border belongs to the animal
            Image.fromarray(mask).save(work / part / "masks" / f"{shown}.png")
        start += count


def as_a_reader(weights):
    """Weights from a file, and no bars."""
    tl_unet.build_unet = functools.partial(tl_unet.build_unet, weights=weights)
    for name, verbose in (("fit", 2), ("evaluate", 0), ("predict", 0)):
        method = getattr(keras.Model, name)

        def quiet(self, *args, method=method, verbose=verbose, **options):
            return method(self, *args, **{"verbose": verbose, **options})

        setattr(keras.Model, name, quiet)


def shortened(text):
    """A log of many epochs without those in the middle."""
    epochs = re.split(r"^(?=Epoch \d)", text.strip(), flags=re.MULTILINE)
    if len(epochs) > 5:
        epochs = [*epochs[:3], "...\n", *epochs[-2:]]
    return "".join(epochs)


def run(blocks):
    """What each block printed; those that printed nothing are left out."""
    namespace, printed = {"__name__": "__main__"}, []
    for block in blocks:
        print(block, flush=True)
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            exec(block, namespace)
        if text := shown.getvalue():
            print(text, flush=True)
            printed.append(shortened(text))
    return printed


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, required=True, help="images/, annotations/")
    parser.add_argument("--weights", type=pathlib.Path, required=True, help="of MobileNetV2")
    parser.add_argument("--train", type=int, default=200, help="training pictures")
    parser.add_argument("--valid", type=int, default=60, help="validation pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of pictures")
    parser.add_argument("--docs", type=pathlib.Path, default=DOCS, help="where to write")
    arguments = parser.parse_args()

    blocks = BLOCK.findall((DOCS / "quickstart.md").read_text(encoding="utf-8"))
    docs, data = arguments.docs.resolve(), arguments.data.resolve()
    as_a_reader(arguments.weights.resolve())
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        work = pathlib.Path(folder)
        write_folders(
            data, work, {"train": arguments.train, "valid": arguments.valid}, arguments.seed
        )
        first, second, scores = run(blocks)
        minutes = (time.perf_counter() - begun) / 60
        for name in PICTURES:
            with replacing(docs / "images" / f"quickstart-{name}") as beside:
                beside.write_bytes((work / name).read_bytes())
        picture = Image.open(work / "valid/images/first.jpg").convert("RGB")
        mask = Image.open(work / "first_mask.png").convert("RGB")
        side = Image.new("RGB", (2 * picture.width + 8, picture.height), "white")
        side.paste(picture)
        side.paste(mask, (picture.width + 8, 0))
        with replacing(docs / "images" / "quickstart-first.png") as beside:
            side.quantize(64).save(beside, format="png")
    about = (
        f"The folders held {arguments.train} pictures of Oxford-IIIT Pet to train on and {arguments.valid} to validate, drawn with seed {arguments.seed}; it took "
        f"{minutes:.0f} minutes on {cores()}, with Keras {keras.__version__} and TensorFlow {tf.__version__}."
    )
    sections = {"first": first, "second": second, "scores": scores.strip(), "about": about}
    text = "\n".join(
        f"--8<-- [start:{name}]\n{content.rstrip()}\n--8<-- [end:{name}]\n"
        for name, content in sections.items()
    )
    with replacing(docs / "quickstart-output.txt") as beside:
        beside.write_text(text, encoding="utf-8")
    print(f"Wrote quickstart-output.txt and pictures in {docs}.")


if __name__ == "__main__":
    main()
