"""Measures tiled and augmented prediction with a trained model on real pictures: seams, agreement with the whole image, gain of views.

Large images are mosaics of test pictures of Oxford-IIIT Pet, or single ones enlarged. The output is Markdown in three sections, which
the page on large images includes.

python tools/tiling_table.py runs/pets/model.keras --data oxford_pets/ --output docs/tutorials/tiling-table.md
"""

import argparse
import pathlib

import keras
import numpy as np

import tl_unet
import tl_unet.data
from tl_unet.inference import _positions

TILE = 256
OVERLAPS = (0, 32, 64, 128)
# In an image of this side all but the second kind of tiles begin at multiples of 32, on the encoder's grid in the whole image.
SIDE = 1408
AGREEMENT = ((256, 64), (480, 64), (512, 64), (768, 64), (768, 256))
DISTANCES = (0, 64, 128, 256)
VIEWS = {
    "none": False,
    "mirrored": "horizontal_flip",
    "both flips": ("horizontal_flip", "vertical_flip"),
    "turns by 90 degrees": "rotation",
    "scales 0.8, 1.25": "scale",
    "mirrored, and scales": ("horizontal_flip", "scale"),
}


def mosaics(pictures, side, count):
    """Images of `side` pixels laid out with pictures; their joints lie in the middle between multiples of the pictures' side."""
    cell = pictures.shape[1]
    cells = side // cell + 2
    generator = np.random.default_rng(0)
    for _ in range(count):
        chosen = pictures[generator.integers(0, len(pictures), cells * cells)]
        whole = chosen.reshape(cells, cells, cell, cell, 3).swapaxes(1, 2)
        whole = whole.reshape(cells * cell, cells * cell, 3)
        yield whole[cell // 2 : cell // 2 + side, cell // 2 : cell // 2 + side]


def enlarged(pictures, side, count):
    """Single pictures, enlarged to `side` pixels."""
    for picture in pictures[:count]:
        large = keras.ops.image.resize(
            picture.astype("float32"), (side, side), interpolation="bicubic"
        )
        yield np.clip(keras.ops.convert_to_numpy(large), 0, 255)


def borders(side, tile, overlap):
    """Where tiles begin and end inside an image."""
    starts = _positions(side, tile, overlap)
    return sorted({*starts[1:], *(start + tile for start in starts[:-1])})


def steps(mask, lines, joints):
    """The sums and numbers of the absolute steps between neighbours: across the lines, and elsewhere, far from joints of a mosaic."""
    found = np.zeros((2, 2))
    for axis in (0, 1):
        step = np.abs(np.diff(mask[..., 0], axis=axis)).mean(axis=1 - axis)
        place = np.arange(1, len(step) + 1)
        near = np.zeros(len(step), bool)
        for joint in joints:
            near |= np.abs(place - joint) <= 8
        crossing = np.isin(place, lines)
        for row, here in enumerate((crossing & ~near, ~crossing & ~near)):
            found[row] += step[here].sum(), here.sum()
    return found


def seams(model, pictures, count):
    """A table of the mean steps across the borders of tiles and elsewhere."""
    side, cell = 6 * TILE, pictures.shape[1]
    images = {
        f"{count} x mosaic of {side} pixels": (
            list(mosaics(pictures, side, count)),
            range(cell // 2, side, cell),
        ),
        f"{4 * count} x picture enlarged to {3 * TILE}": (
            list(enlarged(pictures, 3 * TILE, 4 * count)),
            (),
        ),
    }
    rows = []
    for name, (large, joints) in images.items():
        for overlap in (None, *OVERLAPS):
            found = np.zeros((2, 2))
            for image in large:
                lines = borders(len(image), TILE, overlap or 0)
                mask = (
                    model.predict_on_batch(image[None])[0]
                    if overlap is None
                    else tl_unet.predict_tiled(model, image, TILE, overlap)
                )
                found += steps(mask, lines, joints)
            across, elsewhere = found[:, 0] / found[:, 1]
            kind = "the whole image at once" if overlap is None else f"overlap {overlap}"
            rows.append(
                f"| {name} | {kind} | {across:.4f} | {elsewhere:.4f} | {across / elsewhere:.2f} |"
            )
            print(rows[-1], flush=True)
    return [
        "| images | prediction | step across borders | step elsewhere | ratio |",
        "| --- | --- | ---: | ---: | ---: |",
        *rows,
        "",
        f"Mean absolute step of the probability from a pixel to its neighbour. Tiles of {TILE} pixels; for the whole image the borders are those of "
        "tiles without overlap. Steps within 8 pixels of the joints of a mosaic are left out.",
    ]


def agreement(model, pictures, count):
    """A table of the differences to the prediction of the whole image, by the distance from the borders of tiles."""
    worst = {key: {distance: [] for distance in DISTANCES} for key in AGREEMENT}
    for image in mosaics(pictures, SIDE, count):
        whole = model.predict_on_batch(image[None])[0]
        for tile, overlap in AGREEMENT:
            tiled = tl_unet.predict_tiled(model, image, tile, overlap, batch_size=1)
            lines = np.array(borders(SIDE, tile, overlap))
            away = np.abs(np.arange(SIDE)[:, None] + 0.5 - lines).min(axis=1)
            away = np.minimum(away[:, None], away[None])
            difference = np.abs(whole - tiled)[..., 0]
            for distance in DISTANCES:
                worst[tile, overlap][distance].append(difference[away >= distance])
    rows = []
    for (tile, overlap), found in worst.items():
        starts = _positions(SIDE, tile, overlap)
        cells = []
        for distance in DISTANCES:
            values = np.concatenate(found[distance])
            cells.append(f"{values.max():.3f} ({values.mean():.4f})" if len(values) else "")
        grid = "yes" if all(start % 32 == 0 for start in starts) else "no"
        rows.append(f"| {tile} | {overlap} | {grid} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    return [
        "| tile | overlap | on the grid | "
        + " | ".join(f"at least {d} px" for d in DISTANCES)
        + " |",
        "| ---: | ---: | --- |" + " ---: |" * len(DISTANCES),
        *rows,
        "",
        f"Largest (mean) absolute difference of the probabilities of pixels at least so far from the border of any tile; {count} x mosaic of {SIDE} pixels. "
        "On the grid: all tiles begin at multiples of 32 pixels, the stride of the encoder.",
    ]


def counts(prediction, mask):
    """Intersection and union of each image."""
    found, truth = prediction[..., 0] > 0.5, mask[..., 0] > 0.5
    return np.stack([(found & truth).sum((1, 2)), (found | truth).sum((1, 2))], -1)


def gains(model, pictures, masks):
    """A table of the IoU with each kind of views."""
    found = {
        name: counts(tl_unet.predict_augmented(model, pictures, augment), masks)
        for name, augment in VIEWS.items()
    }
    generator = np.random.default_rng(0)
    draws = generator.integers(0, len(pictures), (2000, len(pictures)))
    score = lambda values: values[..., 0].sum(-1) / values[..., 1].sum(-1)  # noqa: E731
    rows = []
    for name, values in found.items():
        gain = 100 * (score(values) - score(found["none"]))
        low, high = np.percentile(
            100 * (score(values[draws]) - score(found["none"][draws])), [2.5, 97.5]
        )
        shown = "" if name == "none" else f"{gain:+.2f} ({low:+.2f} to {high:+.2f})"
        augment = VIEWS[name]
        rows.append(f"| {name} | {number_of_views(augment)} | {score(values):.4f} | {shown} |")
        print(rows[-1], flush=True)
    return [
        "| views | predictions an image | IoU | gain in points |",
        "| --- | ---: | ---: | ---: |",
        *rows,
        "",
        f"{len(pictures)} test pictures at {pictures.shape[1]} pixels, a small part of the test set; IoU over all their pixels. In brackets: 95 % intervals of the gain, by "
        "bootstrap over the pictures.",
    ]


def number_of_views(augment):
    """How often a model is asked for an image."""
    calls = []

    class Counting:
        def predict_on_batch(self, images):
            calls.append(len(images))
            return images[..., :1]

    tl_unet.predict_augmented(Counting(), np.zeros((1, 8, 8, 3)), augment, batch_size=1)
    return len(calls)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a .keras file")
    parser.add_argument("--data", default="tfds", help="as in train_pets.py")
    parser.add_argument("--test", type=int, default=150, help="test pictures for the views")
    parser.add_argument("--mosaics", type=int, default=1)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the tables, Markdown")
    arguments = parser.parse_args()
    model = keras.saving.load_model(arguments.model, compile=False)
    pets = tl_unet.data.oxford_pets(
        arguments.data, size=256, batch_size=arguments.test, limit=3 * arguments.test
    )
    pictures, masks = (np.asarray(part) for part in next(iter(pets["test"].dataset)))
    sections = {
        "views": gains(model, pictures, masks),
        "seams": seams(model, pictures, arguments.mosaics),
        "agreement": agreement(model, pictures, arguments.mosaics),
    }
    lines = []
    for name, section in sections.items():
        lines += [f"<!-- --8<-- [start:{name}] -->", *section, f"<!-- --8<-- [end:{name}] -->", ""]
    arguments.output.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
