"""The example of many bands: what its scenes hold, and a tiny run."""

import json
import types

import keras
import multispectral
import numpy as np
import pytest
from PIL import Image
from tiny import shallow_unet


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["multispectral.py", *map(str, arguments), "--verbose", "0"])
    multispectral.main()


def separability(images, masks, healthy):
    """How far apart stressed and healthy fields are in each band, in standard deviations."""
    one, other = images[masks].astype(float), images[healthy].astype(float)
    spread = np.sqrt((one.var(axis=0) + other.var(axis=0)) / 2)
    return np.abs(one.mean(axis=0) - other.mean(axis=0)) / spread


def test_only_the_bands_beyond_rgb_tell_the_fields_apart(monkeypatch):
    images, masks = multispectral.draw_scenes(60, 32, seed=0)
    assert images.shape == (60, 32, 32, 12)
    assert images.dtype == "uint8"
    stressed = multispectral.SPECTRA["stressed"]
    monkeypatch.setitem(multispectral.SPECTRA, "healthy", stressed)
    monkeypatch.setitem(
        multispectral.SPECTRA, "stressed", stressed * 0
    )  # now the others are marked
    blind, _ = multispectral.draw_scenes(60, 32, seed=0)
    monkeypatch.undo()
    # Healthy fields: where the scene does not change when they get the spectrum of stressed ones, it is none.
    healthy = np.abs(blind.astype(int) - images)[..., 10] > 20
    healthy &= ~masks[..., 0].astype(bool)
    apart = separability(images, masks[..., 0].astype(bool), healthy)
    assert max(apart[:3]) < 0.25
    assert min(apart[[3, 10, 11]]) > 1


def test_scenes_are_the_same_whatever_their_number():
    few, many = (multispectral.draw_scenes(count, 32, seed=7) for count in (2, 4))
    np.testing.assert_array_equal(few[0], many[0][:2])
    np.testing.assert_array_equal(few[1], many[1][:2])
    assert (multispectral.draw_scenes(2, 32, seed=8)[0] != few[0]).any()


def test_each_number_of_channels_is_trained_once_judged_and_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        multispectral,
        "build_model",
        lambda channels, weights: shallow_unet(input_shape=(None, None, channels)),
    )
    small = ("--scenes", 6, "--size", 32, "--epochs", 1, "--batch-size", 2, "--output", tmp_path)
    run(monkeypatch, *small, "--channels", 12, 1)
    results = json.loads((tmp_path / "results.json").read_text())["test"]
    assert set(results) == {"12 bands", "infrared"}
    model = keras.saving.load_model(tmp_path / "12-channels" / "model.keras", compile=False)
    images, masks = multispectral.draw_scenes(2, 32, seed=2)
    metric = multispectral.tl_unet.IoU()
    metric.update_state(masks, model.predict(images, verbose=0))
    assert float(metric.result()) == pytest.approx(results["12 bands"]["iou"], abs=1e-6)
    for figure in ("curves", "predictions"):
        assert Image.open(tmp_path / f"{figure}.png").size[0] > 200

    # Stopped and called again: what is there is not trained again.
    monkeypatch.setattr(multispectral, "fit", None)
    run(monkeypatch, *small, "--channels", 12, 1)
    assert "12 channels: trained before" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(monkeypatch, *small, "--seed", 5)
    assert "other options" in capsys.readouterr().err


def test_with_weights_the_encoder_is_frozen_first(monkeypatch):
    trained = []

    def fit(model, *data, **options):
        trained.append(model.get_layer("encoder").trainable)
        return types.SimpleNamespace(history={"loss": [1.0] * options["epochs"]})

    monkeypatch.setattr(keras.Model, "fit", fit)
    options = {"weights": "file", "freeze_epochs": 1, "epochs": 3, "batch_size": 2, "verbose": 0}
    arguments = multispectral.argparse.Namespace(**options)
    model = shallow_unet()
    model.get_layer("encoder").trainable = False
    curves = multispectral.fit(model, [np.zeros(4)], None, arguments)
    assert trained == [False, True]
    assert curves == {"loss": [1.0, 1.0, 1.0]}


@pytest.mark.slow
def test_inflated_weights_go_into_the_model(mobilenetv2_weights):
    model = multispectral.build_model(12, str(mobilenetv2_weights))
    assert model.input_shape == (None, None, None, 12)
    assert not model.get_layer("encoder").trainable
