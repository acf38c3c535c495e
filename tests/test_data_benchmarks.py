"""The measurements that train on real pets: each runs whole on a few pictures, and goes on where it stopped."""

import dataclasses
import json

import feature_cache
import input_pipeline
import pytest
from conftest import shared_path
from tiny import TINY

import tl_unet

SMALL = dataclasses.replace(TINY, taps=TINY.taps[:2])
build = tl_unet.build_unet


@pytest.fixture
def pets(monkeypatch):
    """The folder of the real pets; networks are tiny."""
    monkeypatch.setattr(tl_unet, "build_unet", lambda name, **options: build(SMALL, **options))
    monkeypatch.setattr(tl_unet, "get_encoder_spec", lambda name: SMALL)
    return str(shared_path("oxford_pets"))


@pytest.mark.slow
def test_cached_features_are_timed_against_the_whole_model(pets, tmp_path, monkeypatch, capsys):
    options = ["--data", pets, "--size", "32", "--images", "4", "--batch", "2", "--rounds", "2"]
    options += ["--filters", "8", "4", "4", "4", "4", "--json", str(tmp_path / "x.json")]
    feature_cache.main([*options, "--encoders", "unet"])
    row = json.loads((tmp_path / "x.json").read_text())["rows"]["unet"]
    assert {way: len(values) for way, values in row["seconds"].items()} == dict.fromkeys(
        feature_cache.WAYS, 2
    )
    table = (tmp_path / "x.md").read_text()
    assert table.count("| `unet` |") == 1
    assert "decoder filters 8, 4, 4, 4, 4 with" in table
    assert row["first_pass"].keys() == {"float32", "float16"}
    asked = []
    monkeypatch.setattr(feature_cache, "measure", lambda name, *_: asked.append(name) or row)
    feature_cache.main([*options, "--encoders", "unet", "mobilenetv2"])
    assert asked == ["mobilenetv2"]
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert rows == {"unet": row, "mobilenetv2": row}
    with pytest.raises(SystemExit, match="another setting"):
        feature_cache.main([*options, "--images", "6"])


@pytest.mark.slow
def test_steps_on_data_are_timed_against_steps_on_a_constant_batch(pets, tmp_path, capsys):
    options = ["--data", pets, "--size", "32", "--batch", "2", "--steps", "2", "--rounds", "1"]
    options += ["--filters", "8", "4"]
    input_pipeline.main([*options, "--json", str(tmp_path / "x.json")])
    times = json.loads((tmp_path / "x.json").read_text())["step_seconds"]
    table = (tmp_path / "x.md").read_text()
    assert table in capsys.readouterr().out
    assert "decoder filters 8, 4, batches of 2" in table
    rows = [line.split(" | ")[0] for line in table.splitlines()[4:]]
    assert rows == [f"| {name}" for name in times]
    assert set(times) > {"constant batch", "cached in memory", "augmented"}
    assert all(value > 0 for values in times.values() for value in values)
