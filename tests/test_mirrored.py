"""TensorFlow's distribution on one machine, in a process of its own: TensorFlow wants to know the devices before anything else runs."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).resolve().parent


@pytest.mark.slow
@pytest.mark.parametrize(("normalization", "tolerance"), [("batch", 1e-2), ("group", 1e-5)])
def test_a_mirrored_model_trains_in_both_stages_and_scores_as_on_one_device(
    normalization, tolerance
):
    environ = os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, TESTS / "mirrored_worker.py", normalization],
        env=environ | {"PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS)))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == 2
    assert found["frozen"][-1] < found["frozen"][0]
    assert found["all"][-1] < found["all"][0]
    assert found["on two"] == pytest.approx(found["on one"], abs=tolerance)
