"""Tries every export format with unknown sides at two sizes of images, for decoders that enlarge maps in different ways, and writes a table.

What a format can do depends on the model's operations and not on its weights, so these are random.

python tools/export_sizes.py --output docs/tutorials/export-sizes.md
"""

import argparse
import pathlib
import tempfile
from importlib.metadata import version

import keras
import numpy as np

import tl_unet
from tl_unet.export import SUFFIXES

SIZES = (64, 64), (75, 130)  # also one that the encoder's stride does not divide
# Decoder, up-sampling and filters.
CASES = (
    ("unet", "transpose", (64, 32, 16, 16, 8)),
    ("unet", "nearest", (64, 32, 16, 16, 8)),
    ("unet", "bilinear", (64, 32, 16, 16, 8)),
    ("residual", "nearest", (64, 32, 16, 16, 8)),
    ("attention", "nearest", (64, 32, 16, 16, 8)),
    ("unet3plus", "bilinear", (8, 8, 8, 8, 8)),
    ("fpn", "bilinear", (32, 16)),
)
PACKAGES = ("keras", "tensorflow", "onnxruntime", "openvino", "nncf", "ai-edge-litert")


def attempt(model, format, folder):
    """What a cell says of a format: how far it differs from Keras at either size, or where it failed."""
    generator = np.random.default_rng(0)
    images = {size: generator.uniform(0, 255, (4, *size, 3)).astype("float32") for size in SIZES}
    try:
        path = tl_unet.export_model(model, folder, format, images=images[SIZES[0]])
    except ValueError as error:
        print(f"{format}: {str(error)[:300]}")
        return "no: not written"
    worst = 0.0
    for (height, width), batch in images.items():
        try:
            worst = float(np.maximum(worst, tl_unet.max_difference(model, path, batch[:1])))
        except Exception as error:  # every runtime has errors of its own
            print(f"{format} at {height}x{width}: {type(error).__name__} {str(error)[:300]}")
            return f"no: not at {height}x{width}"
    return f"yes ({worst:.0e})" if np.isfinite(worst) else "no: gives NaN"


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="mobilenetv2")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the table, Markdown")
    arguments = parser.parse_args()
    rows = []
    for decoder, upsampling, filters in CASES:
        keras.utils.set_random_seed(0)
        model = tl_unet.build_unet(
            arguments.encoder,
            weights=None,
            freeze=False,
            decoder=decoder,
            upsampling=upsampling,
            normalization="batch",
            decoder_filters=filters,
        )
        found = []
        for format in SUFFIXES:
            with tempfile.TemporaryDirectory() as folder:
                found.append(attempt(model, format, f"{folder}/model"))
            print(decoder, upsampling, format, found[-1], flush=True)
        rows.append(f'| `"{decoder}"` | `"{upsampling}"` | {" | ".join(found)} |')
    sizes = " and ".join(f"{height}x{width}" for height, width in SIZES)
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    lines = [
        "| `decoder` | `upsampling` | " + " | ".join(f'`"{format}"`' for format in SUFFIXES) + " |",
        "| --- | --- |" + " --- |" * len(SUFFIXES),
        *rows,
        "",
        f"Exported without `size=`, run on images of {sizes}; in brackets the largest difference from Keras' probabilities. U-Nets on {arguments.encoder} with random "
        f"weights; {versions}. Made by `python tools/export_sizes.py`.",
    ]
    arguments.output.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
