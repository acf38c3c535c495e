"""The measurement of 16-bit policies: its table, and that it puts the policy back."""

import dataclasses
import functools
import json

import keras
import precision
import pytest
from tiny import TINY

import tl_unet


def test_a_ratio_is_the_policys_time_over_that_of_float32():
    line = precision.row("vgg16", True, {"float32": [0.1, 0.2, 0.1], "x": [0.2, 0.4, 0.3]})
    assert line == "| `vgg16` | frozen | 100 | 300 | 2.00 (2.00 to 2.50) |"


@pytest.mark.slow
def test_a_small_run_prints_its_table_and_leaves_the_policy_alone(tmp_path, capsys, monkeypatch):
    small = dataclasses.replace(TINY, taps=TINY.taps[:2])
    build = functools.partial(tl_unet.build_unet, small, decoder_filters=(8, 8))
    monkeypatch.setattr(tl_unet, "build_unet", lambda name, **options: build(**options))
    path = tmp_path / "precision.json"
    options = ["--encoders", "unet", "--size", "32", "--batch", "1", "--rounds", "1"]
    precision.main([*options, "--json", str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == ["frozen", "full"]
    assert keras.config.dtype_policy().name == "float32"
    found = json.loads(path.read_text())
    assert found["setting"]["policy"] == "mixed_bfloat16"
    times = found["step_seconds"]["unet full"]
    assert set(times) == {"float32", "mixed_bfloat16"}
    assert all(len(values) == 1 for values in times.values())


def test_a_wrong_name_is_refused_before_anything_is_measured():
    with pytest.raises(ValueError, match="vgg61"):
        precision.main(["--encoders", "vgg61"])
