"""The measurement of glibc's settings: its table, and a small run."""

import json
import platform
import subprocess
import sys
import tempfile

import allocator
import pytest

SMALL = ["--encoder", "unet", "--filters", *"8888"]
SMALL += ["--size", "32", "--batch", "1", "--rounds", "1", "--steps", "1"]
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this Python has no glibc")


@pytest.mark.slow
@glibc
def test_a_small_run_has_a_time_and_a_peak_for_each_setting(tmp_path, capsys, monkeypatch):
    two = {name: allocator.SETTINGS[name] for name in ("default", "keep")}
    monkeypatch.setattr(allocator, "SETTINGS", two)
    path = tmp_path / "allocator.json"
    allocator.main([*SMALL, "--json", str(path)])
    found = json.loads(path.read_text())
    assert set(found["step_seconds"]) == set(found["peak_bytes"]) == set(allocator.SETTINGS)
    assert all(len(times) == 1 and times[0] > 0 for times in found["step_seconds"].values())
    assert "| default |" in path.with_suffix(".md").read_text() == capsys.readouterr().out[:-1]


def test_a_ratio_is_that_of_times_of_one_round():
    times = {"default": [0.1, 0.2, 0.1], "keep": [0.05, 0.1, 0.05]}
    about = {"encoder": "vgg16", "filters": [8, 4], "batch": 2, "size": 64, "steps": 1, "rounds": 3}
    lines = allocator.table(
        {
            "settings": about,
            "machine": "a machine",
            "date": "today",
            "step_seconds": times,
            "step_page_faults": {"default": [10, 30, 20], "keep": [1, 2, 3]},
            "peak_bytes": {"default": 1e9, "keep": 1.5e9},
        }
    ).splitlines()
    assert "decoder filters 8, 4" in lines[0]
    assert lines[-1] == "| keep | 50 | 0.50 (0.50 to 0.50) | 2 | 1.5 GB |"


@glibc
def test_a_wrong_name_is_refused_before_anything_is_measured():
    with pytest.raises(ValueError, match="vgg61"):
        allocator.main(["--encoder", "vgg61"])


@glibc
def test_a_child_that_ends_is_told(monkeypatch):
    def start(tunables, argv):
        code = "import sys; print('no room', file=sys.stderr); sys.exit(int(input()))"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the child
        return subprocess.Popen(
            [sys.executable, "-c", code], text=True, stderr=errors, **pipes
        ), errors

    monkeypatch.setattr(allocator, "start", start)
    with pytest.raises(SystemExit, match=r"ended with code 3(.|\n)*no room"):
        allocator.main(["--steps", "3"])


@glibc
def test_no_steps_and_no_rounds_are_refused(capsys):
    for option in ("--steps", "--rounds"):
        with pytest.raises(SystemExit):
            allocator.main([option, "0"])
        assert f"{option}: 0 is not above zero" in capsys.readouterr().err


def test_elsewhere_than_on_glibc_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    with pytest.raises(SystemExit):
        allocator.main([])
    assert "glibc" in capsys.readouterr().err
