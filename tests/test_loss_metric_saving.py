"""Losses and metrics survive serialisation, and compiled models load in a process of their own."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from tl_unet.losses import (
    CrossentropyLoss,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    LossSum,
    LovaszLoss,
    TverskyLoss,
)
from tl_unet.metrics import DiceCoefficient, IoU

COMMON = {
    "average": "image",
    "from_logits": True,
    "multi_label": True,
    "class_weights": [1.0, 2.0, 0.5],
    "ignore_index": 255,
    "reduction": "sum",
    "name": "other",
}
SCORE = {
    "threshold": 0.25,
    "average": "image",
    "empty": 0.5,
    "smooth": 2.0,
    "from_logits": True,
    "multi_label": True,
    "ignore_index": 7,
    "target_class_ids": [1, 2],
    "class_names": ["background", "cat", "dog"],
    "name": "other",
}
CHANGED = {
    DiceLoss: {"smooth": 3.0, **COMMON},
    JaccardLoss: {"smooth": 3.0, **COMMON},
    TverskyLoss: {"smooth": 3.0, "alpha": 0.2, "beta": 0.9, **COMMON},
    FocalLoss: {"gamma": 1.5, "alpha": 0.3, **COMMON},
    LovaszLoss: COMMON,
    CrossentropyLoss: COMMON,
    DiceCoefficient: SCORE,
    IoU: SCORE,
}


@pytest.mark.parametrize("cls", CHANGED)
def test_every_argument_survives_serialisation(cls):
    arguments = CHANGED[cls]
    defaults = cls().get_config()
    assert set(arguments) == set(defaults)
    assert all(arguments[key] != defaults[key] for key in arguments)
    saved = keras.saving.serialize_keras_object(cls(**arguments))
    assert saved["registered_name"] == f"tl_unet>{cls.__name__}"
    loaded = keras.saving.deserialize_keras_object(saved)
    assert type(loaded) is cls
    assert loaded.get_config() == arguments


@pytest.mark.parametrize("cls", CHANGED)
def test_defaults_survive_serialisation(cls):
    loaded = cls.from_config(cls().get_config())
    assert loaded.get_config() == cls().get_config()


def test_sums_survive_serialisation():
    loss = DiceLoss(smooth=2.0) + 0.5 * (FocalLoss(gamma=1.0) + keras.losses.BinaryCrossentropy())
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(loaded, LossSum)
    assert loaded.get_config() == loss.get_config()
    rng = np.random.default_rng(0)
    mask, prediction = rng.integers(0, 2, (2, 4, 4, 1)).astype("float32"), rng.random((2, 4, 4, 1))
    assert float(loaded(mask, prediction)) == float(loss(mask, prediction))


RESUME = """
import sys
import numpy as np
import tl_unet
import keras

folder = sys.argv[1]
model = keras.saving.load_model(f"{folder}/model.keras")
data = np.load(f"{folder}/data.npz")
before = model.evaluate(data["images"], data["masks"], verbose=0, return_dict=True)
for key, value in before.items():
    assert abs(value - data[key]) < 1e-5, (key, value, data[key])
assert int(model.optimizer.iterations) == 2
model.fit(data["images"], data["masks"], epochs=3, verbose=0)
after = model.evaluate(data["images"], data["masks"], verbose=0, return_dict=True)
assert int(model.optimizer.iterations) == 5
assert after["loss"] < before["loss"], (before, after)
"""


def test_a_compiled_model_resumes_in_a_process_that_only_imported_tl_unet(tmp_path):
    loss = DiceLoss() + 0.5 * FocalLoss() + keras.losses.BinaryCrossentropy()
    loss = loss + TverskyLoss(average="image") + 0.1 * (JaccardLoss() + LovaszLoss())
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(
        inputs, keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")(inputs)
    )
    metrics = [DiceCoefficient(), IoU(threshold=None, average="batch", smooth=1.0)]
    model.compile(
        optimizer=keras.optimizers.Adam(0.01), loss=loss, metrics=metrics, jit_compile=False
    )
    images = np.random.default_rng(0).random((4, 8, 8, 1)).astype("float32")
    masks = (images > 0.5).astype("float32")
    model.fit(images, masks, epochs=2, verbose=0)
    scores = model.evaluate(images, masks, verbose=0, return_dict=True)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", images=images, masks=masks, **scores)
    done = subprocess.run(
        [sys.executable, "-c", RESUME, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
