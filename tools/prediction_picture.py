"""Makes the picture of the README: test images of Oxford-IIIT Pet above the truth and a model's probabilities.

python tools/prediction_picture.py runs/pets/model.keras --data oxford_pets/ --output docs/images/pets.png
"""

import argparse
import pathlib
import sys

import keras
import numpy as np

import tl_unet.data

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))

from paper.figures import save_picture


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a .keras file")
    parser.add_argument("--data", default="tfds", help="as in train_pets.py")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    pets = tl_unet.data.oxford_pets(
        arguments.data, size=arguments.size, batch_size=arguments.count, limit=3 * arguments.count
    )
    images, masks = (np.asarray(part) for part in next(iter(pets["test"].dataset)))
    model = keras.saving.load_model(arguments.model, compile=False)
    predictions = model.predict(images, verbose=0)
    rows = [images, 255 * masks.repeat(3, -1), 255 * predictions.repeat(3, -1)]
    # Every row is one strip: batch and width change places and become one axis.
    strips = [row.swapaxes(0, 1).reshape(arguments.size, -1, 3) for row in rows]
    save_picture(keras.utils.array_to_img(np.concatenate(strips), scale=False), arguments.output)


if __name__ == "__main__":
    main()
