"""Makes the pictures of docs/guides/seeing-what-it-looks-at.md: Grad-CAM and feature maps of a trained model on test images of Oxford-IIIT Pet.

python tools/insight_pictures.py runs/pets/model.keras --data oxford_pets/ --output docs/images
"""

import argparse
import io
import pathlib
import xml.etree.ElementTree

import keras
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import tl_unet.data
from tl_unet import plotting
from tl_unet.runs import replacing


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a .keras file")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the pets")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for pictures")
    arguments = parser.parse_args()
    pets = tl_unet.data.oxford_pets(
        arguments.data, size=arguments.size, batch_size=arguments.count, limit=3 * arguments.count
    )["test"]
    images, _ = (np.asarray(part) for part in next(iter(pets.dataset)))
    model = keras.saving.load_model(arguments.model, compile=False)

    heads = [head_box(arguments.data, name, arguments.size) for name in pets.names[: len(images)]]
    save(sheet(images, layers_and_classes(model, images)), arguments.output / "grad-cam.png")
    save(sheet(images, regions(model, images, heads)), arguments.output / "grad-cam-region.png")
    maps = tl_unet.feature_maps(model, images[0])
    save(plotting.feature_map_sheet(maps, image=images[0]), arguments.output / "feature-maps.png")


def layers_and_classes(model, images):
    """Columns of pictures: the probabilities, and what different maps say for animal and background."""
    chosen = {
        "animal, stride 32": dict(),
        "animal, stride 16": dict(layer=16),
        "animal, decoder": dict(layer="decoder_stage4_conv2"),
        "background, stride 16": dict(layer=16, class_index=0),
    }
    columns = {"probability": 255 * model.predict(images, verbose=0).repeat(3, -1)}
    for title, options in chosen.items():
        columns[title] = [heat(model, image, **options) for image in images]
    return columns


def regions(model, images, heads):
    """Columns of pictures: the head's box, and what speaks for the animal inside and outside of it, by both methods."""
    animals = model.predict(images, verbose=0)[..., 0] > 0.5
    columns = {
        "box of the head": [
            plotting.overlay(image, head.astype("uint8"), alpha=0.2)
            for image, head in zip(images, heads, strict=True)
        ]
    }
    for method, name in (("grad_cam", "Grad-CAM"), ("hires_cam", "HiResCAM")):
        for where, inside in (("head", True), ("rest", False)):
            columns[f"{name}, {where}"] = [
                heat(model, image, region=animal & (head == inside), layer=16, method=method)
                for image, animal, head in zip(images, animals, heads, strict=True)
            ]
    return columns


def heat(model, image, **options):
    """An image with its heat map."""
    return plotting.heat_overlay(image, tl_unet.grad_cam(model, image, **options))


def head_box(folder, name, size):
    """Where the annotation says that the head is, as a mask of the resized image."""
    file = folder / "annotations" / "xmls" / f"{name}.xml"
    tree = xml.etree.ElementTree.parse(file).getroot()
    number = lambda tag: float(tree.find(tag).text)  # noqa: E731
    width, height = number("size/width"), number("size/height")
    box = np.zeros((size, size), bool)
    left, right = (round(number(f"object/bndbox/{x}") / width * size) for x in ("xmin", "xmax"))
    top, bottom = (round(number(f"object/bndbox/{y}") / height * size) for y in ("ymin", "ymax"))
    box[top:bottom, left:right] = True
    return box


def sheet(images, columns):
    """The images in a first column, and beside them the pictures of each titled column."""
    columns = {"image": images, **columns}
    figure = Figure((1.5 * len(columns), 1.53 * len(images) + 0.25), layout="constrained", dpi=100)
    grid = figure.subplots(len(images), len(columns), squeeze=False)
    for cells, (title, pictures) in zip(grid.T, columns.items(), strict=True):
        cells[0].set_title(title, fontsize=8)
        for axes, picture in zip(cells, pictures, strict=True):
            axes.imshow(np.asarray(picture, "uint8"))
            axes.axis("off")
    return figure


def save(figure, path):
    """Writes a figure as PNG with 256 colours, dithered, since heat without it shows steps."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    picture = Image.open(buffer).convert("RGB")
    palette = picture.quantize(256, method=Image.Quantize.MEDIANCUT)
    with replacing(path) as beside:
        picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(
            beside, "PNG", optimize=True
        )


if __name__ == "__main__":
    main()
