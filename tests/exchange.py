"""Models that one Keras backend saves and another loads: not a test by itself, `.ci/backends` runs it under each backend in turn.

KERAS_BACKEND=torch python tests/exchange.py save FOLDER      # trains a step, saves the model and what it predicts
KERAS_BACKEND=jax python tests/exchange.py compare FOLDER     # loads all that is there and compares
"""

import pathlib
import sys

import keras
import numpy as np
from tiny import tiny_unet

import tl_unet

TOLERANCE = 1e-4


def images():
    """Two pictures whose sides no stride divides."""
    return np.random.default_rng(0).uniform(0, 255, (2, 30, 45, 3)).astype("float32")


def save(folder):
    """Saves a model of each decoder that was trained for one step here, and its predictions."""
    for decoder in tl_unet.list_decoders():
        filters = (16, 8) if decoder == "fpn" else (16, 8, 8, 8, 8)
        model = tiny_unet(decoder=decoder, decoder_filters=filters, normalization="batch")
        model.compile(keras.optimizers.SGD(0.01), tl_unet.DiceLoss(), metrics=[tl_unet.IoU()])
        model.train_on_batch(images(), (images()[..., :1] > 127).astype("float32"))
        name = f"{decoder}-{keras.backend.backend()}"
        model.save(folder / f"{name}.keras")
        np.save(folder / f"{name}.npy", model.predict(images(), verbose=0))


def compare(folder):
    """Loads every model that is there; the largest difference of its predictions must be below 1e-4."""
    paths = sorted(folder.glob("*.keras"))
    for path in paths:
        model = keras.saving.load_model(path, compile=False)
        difference = np.abs(model.predict(images(), verbose=0) - np.load(path.with_suffix(".npy")))
        print(f"{path.stem} on {keras.backend.backend()}: {difference.max():.1e}")
        if not difference.max() < TOLERANCE:
            sys.exit(f"{path.stem} predicts something else on {keras.backend.backend()}.")
    if not paths:
        sys.exit(f"There are no models in {folder}.")


if __name__ == "__main__":
    {"save": save, "compare": compare}[sys.argv[1]](pathlib.Path(sys.argv[2]))
