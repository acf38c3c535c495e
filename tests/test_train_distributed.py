"""Training on several devices and processes: who is who, who reads what, and, where JAX is, processes that really train together."""

import importlib.util
import os
import pathlib
import signal
import socket
import subprocess
import sys
import types

import hypothesis
import keras
import numpy as np
import pytest
import train_distributed
from conftest import shared_path
from hypothesis import strategies as st
from multihost import processes
from multihost.batches import Batches, Pictures, figures, pets
from multihost.processes import Processes, connect, find_processes

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Who is who

SLURM = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3"}
KUBERNETES = {
    "JOB_COMPLETION_INDEX": "1",
    "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    "KERAS_DISTRIBUTION_JOB_ADDRESSES": "pod-0.svc:99",
}


@pytest.mark.parametrize(
    ("options", "environ", "found"),
    [
        ((), {}, Processes()),
        ((2, 1, "a:1"), {}, Processes(1, 2, "a:1")),
        ((None, None, "node1:1234"), SLURM, Processes(3, 4, "node1:1234")),
        ((None, 0, "node1:1234"), SLURM, Processes(0, 4, "node1:1234")),
        ((1, None, None), SLURM, Processes()),
        ((), KUBERNETES, Processes(1, 2, "pod-0.svc:99")),
        ((), {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, Processes()),
        ((2, 0, "a:1,b:2"), {}, Processes(0, 2, "a:1,b:2")),
    ],
)
def test_options_come_before_the_variables_of_the_launcher(options, environ, found):
    assert find_processes(*options, environ=environ) == found


@pytest.mark.parametrize(
    ("options", "environ", "message"),
    [
        ((2, 2, "a:1"), {}, r"--process-id is 2, but with 2 processes the numbers are 0 to 1"),
        ((2, -1, "a:1"), {}, r"--process-id is -1"),
        ((0, 0, "a:1"), {}, r"at least one process, but --processes is 0"),
        ((2, None, "a:1"), {}, r"nothing says which of them this is. Give --process-id or"),
        ((None, 1, "a:1"), {}, r"nothing says how many there are. Give --processes or"),
        ((2, 0, None), {}, r"there is no address. Give --address or"),
        ((2, 0, "node1"), {}, r"--address is 'node1', but must be the host"),
        ((2, 0, "node1:x"), {}, r"--address is 'node1:x'"),
        ((), SLURM | {"SLURM_PROCID": "4"}, r"SLURM_PROCID is 4, but with 4 processes"),
        ((), SLURM | {"SLURM_NTASKS": "four"}, r"SLURM_NTASKS is 'four', but must be a whole"),
        ((), {"JOB_COMPLETION_INDEX": "0"}, r"JOB_COMPLETION_INDEX says .* how many there are"),
    ],
)
def test_what_a_launcher_did_not_say_is_asked_for(options, environ, message):
    with pytest.raises(ValueError, match=message):
        find_processes(*options, environ=environ)


def test_another_backend_than_jax_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(processes.keras.backend, "backend", lambda: "torch")
    with pytest.raises(SystemExit):
        train_distributed.parse([])
    assert "its backend is torch. Set the environment variable KERAS_BACKEND=jax" in (
        capsys.readouterr().err
    )


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch):
    monkeypatch.setattr(processes.keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"batch of 16 .* among 3 processes.* such as 18"):
        connect(Processes(0, 3, "a:1"), 16)


def test_the_guide_lists_every_variable():
    page = (ROOT / "docs" / "guides" / "distributed.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `--")]
    for option, names in processes.VARIABLES.items():
        row = next(row for row in rows if f"`{option}`" in row)
        places = [row.index(f"`{name}`") for name in names]
        assert places == sorted(places)


# Who reads what


def numbered(count):
    """Pictures of 2x2 pixels whose left column is their number, and the same as mask."""

    def load(index):
        image = np.zeros((2, 2, 3), np.uint8)
        image[:, 0] = index + 1
        return image, image[..., :1]

    return Pictures([f"{index:03d}" for index in range(count)], 2, load)


@hypothesis.given(
    places=st.integers(1, 4), count=st.integers(1, 4), spare=st.integers(0, 30), epoch=st.integers()
)
def test_batches_do_not_depend_on_the_number_of_processes(places, count, spare, epoch):
    pictures, size = numbered(places * count + spare), places * count
    epoch = abs(epoch)
    parts = [Batches(pictures, size, i, count, seed=7, epoch=epoch) for i in range(count)]
    whole = Batches(pictures, size, seed=7, epoch=epoch)
    assert {len(part) for part in parts} == {len(whole)}
    seen = set()
    for step in range(len(whole)):
        images, masks = whole[step]
        np.testing.assert_array_equal(images, np.concatenate([part[step][0] for part in parts]))
        np.testing.assert_array_equal(masks, np.concatenate([part[step][1] for part in parts]))
        np.testing.assert_array_equal(images[..., :1], masks)  # mirrored together
        numbers = images.max(axis=(1, 2, 3)).tolist()
        assert len(set(numbers)) == size  # no picture twice in a batch
        seen |= set(numbers)
    assert seen == set(range(1, len(pictures.names) + 1))


@hypothesis.given(places=st.integers(1, 4), count=st.integers(1, 4), spare=st.integers(0, 30))
def test_each_picture_is_read_by_one_process_in_every_epoch(places, count, spare):
    pictures, size = numbered(places * count + spare), places * count
    names = []
    for index in range(count):
        part = Batches(pictures, size, index, count, seed=7)
        read = set()
        for part.epoch in range(3):
            for step in range(len(part)):
                read |= {int(number) - 1 for number in part[step][0].max(axis=(1, 2, 3))}
        assert part.names == [pictures.names[number] for number in sorted(read)]
        names += part.names
    assert sorted(names) == pictures.names


def test_order_and_mirroring_are_new_in_each_epoch_and_follow_from_the_seed():
    first, again = (Batches(numbered(16), 4, seed=7) for _ in range(2))
    other = Batches(numbered(16), 4, seed=8)
    epochs = []
    for epoch in range(2):
        first.epoch = again.epoch = other.epoch = epoch
        epochs.append(np.concatenate([first[step][0] for step in range(4)]))
        np.testing.assert_array_equal(epochs[-1], np.concatenate([again[s][0] for s in range(4)]))
        assert not np.array_equal(epochs[-1], np.concatenate([other[s][0] for s in range(4)]))
    assert not np.array_equal(epochs[0].max(axis=(1, 2, 3)), epochs[1].max(axis=(1, 2, 3)))
    mirrored = epochs[0][:, 0, 0, 0] == 0
    assert 0 < mirrored.sum() < 16
    later = Batches(numbered(16), 4, seed=7, epoch=1)
    np.testing.assert_array_equal(epochs[1], np.concatenate([later[s][0] for s in range(4)]))


def test_for_judging_each_picture_comes_once_and_what_fills_up_is_ignored():
    parts = [Batches(numbered(5), 4, index, 2) for index in range(2)]
    masks = np.concatenate([part[step][1] for step in range(2) for part in parts])
    assert masks[:5, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert masks.shape == (8, 2, 2, 1)
    assert (masks[5:] == 255).all()


def test_too_few_pictures_are_refused():
    with pytest.raises(ValueError, match="There are 3 pictures, but a batch .* takes 4"):
        Batches(numbered(3), 4, seed=0)
    with pytest.raises(ValueError, match="There are 0 pictures"):
        Batches(numbered(0), 4)


def test_a_picture_that_cannot_be_read_is_named():
    def load(index):
        raise ValueError("the image cannot be read")

    with pytest.raises(ValueError, match=r"00\d: the image cannot be read"):
        Batches(numbered(4)._replace(load=load), 2, seed=0)


def test_pets_are_those_of_the_paper():
    parts = pets(shared_path("oxford_pets"), 32, 30)
    assert {part: len(some.names) for part, some in parts.items()} == {
        "train": 30,
        "validation": 10,
        "test": 10,
    }
    image, mask = parts["validation"].load(9)
    assert image.shape == (32, 32, 3)
    assert set(np.unique(mask)) == {0, 1}


def test_figures_are_others_in_each_part():
    parts = figures(32, 3, seed=1)
    images = [parts[part].load(0)[0] for part in ("train", "validation", "test")]
    assert parts["train"].load(0)[1].max() == 1
    assert not any(np.array_equal(images[i], images[i - 1]) for i in range(3))


# Going on


def stub(tmp_path, *options):
    arguments = train_distributed.parser().parse_args(["--output", str(tmp_path), *options])
    arguments.freeze_epochs = 0
    return arguments, train_distributed.RunFolder(tmp_path)


def test_a_run_goes_on_with_its_own_options_only(tmp_path, monkeypatch):
    monkeypatch.setattr(train_distributed, "gather", lambda value: np.array([value]))
    arguments, run = stub(tmp_path)
    assert train_distributed.earlier_epochs(arguments, run, Processes()) == []
    arguments, run = stub(tmp_path, "--seed", "3")  # another try before the first epoch
    assert train_distributed.earlier_epochs(arguments, run, Processes()) == []
    arguments, run = stub(tmp_path)
    assert train_distributed.earlier_epochs(arguments, run, Processes()) == []
    run.write_history([{"epoch": 1, "val_iou": 0.5}])
    with pytest.raises(ValueError, match="holds a run: go on with --resume"):
        train_distributed.earlier_epochs(arguments, run, Processes())
    arguments, run = stub(tmp_path, "--resume")
    rows = train_distributed.earlier_epochs(arguments, run, Processes())
    assert rows == [{"epoch": 1, "val_iou": 0.5}]
    arguments, run = stub(tmp_path, "--resume", "--seed", "3", "--batch-size", "8")
    with pytest.raises(ValueError, match="other options: batch_size 16, not 8, seed 0, not 3"):
        train_distributed.earlier_epochs(arguments, run, Processes())


@pytest.mark.parametrize("name", ["thesis.txt", "run.json"])
def test_a_folder_of_somebody_else_is_left_alone(name, tmp_path, monkeypatch):
    monkeypatch.setattr(train_distributed, "gather", lambda value: np.array([value]))
    (tmp_path / name).write_text('{"options": {}}')
    arguments, run = stub(tmp_path, "--resume")
    with pytest.raises(ValueError, match="is not empty and holds no run of this script"):
        train_distributed.earlier_epochs(arguments, run, Processes())
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("change", "message"),
    [([1, 0, 0], "started with different options"), ([0, 1, 2], r"\(\[0, 2\] finished epochs\)")],
)
def test_processes_that_disagree_do_not_train(tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(
        train_distributed, "gather", lambda value: np.array([value, np.add(value, change)])
    )
    with pytest.raises(ValueError, match=message):
        train_distributed.earlier_epochs(*stub(tmp_path), Processes(0, 2, "a:1"))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("done", "calls"),
    [
        (0, ["frozen", "fit 0 to 2", "all", "fit 2 to 3"]),
        (1, ["frozen", "load 1", "fit 1 to 2", "all", "fit 2 to 3"]),
        (2, ["frozen", "load 2", "all", "fit 2 to 3"]),  # the optimizer of the next stage is new
        (3, ["all", "load 3"]),
    ],
)
def test_a_run_goes_on_in_the_stage_it_was_in(tmp_path, monkeypatch, done, calls):
    arguments, run = stub(tmp_path, "--epochs", "3")
    arguments.freeze_epochs = 2
    rows, seen = [{"epoch": epoch} for epoch in range(1, done + 1)], []

    class Model:
        def load_weights(self, path):
            seen.append(f"load {path.stem.removesuffix('.weights').removeprefix('epoch-')}")

        def fit(self, batches, initial_epoch, epochs, **options):
            seen.append(f"fit {initial_epoch} to {epochs}")
            rows.extend([{}] * (epochs - initial_epoch))

    def stage(model, arguments, frozen, steps):
        seen.append("frozen" if frozen else "all")

    monkeypatch.setattr(train_distributed, "compile_stage", stage)
    parts = {"train": [0, 0], "validation": [0]}
    train_distributed.fit(Model(), parts, rows, arguments, run, Processes())
    assert seen == calls


# Processes that train together

TOLERANCE = 1e-5  # of weights after 15 steps, between two devices and one


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts processes that train together on a tiny model, and waits for them."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("needs JAX, which this environment has not got (.ci/backends makes one)")
    cache = tmp_path_factory.mktemp("compiled")

    def run(output, count=1, die=None, **environ):
        environ = os.environ | {
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "tests", "examples")),
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # it compiles more than it computes
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **environ,
        }
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            address = f"localhost:{probe.getsockname()[1]}"
        small = ["--size", "32", "--limit", "18", "--batch-size", "4", "--epochs", "3", "--resume"]
        small += ["--output", str(output)]
        started = [
            subprocess.Popen(
                [sys.executable, str(ROOT / "tests" / "distributed_worker.py"), *small]
                + ["--processes", str(count), "--process-id", str(index), "--address", address],
                env=environ | ({"DIE_AFTER": "1"} if index == die else {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for index in range(count)
        ]
        try:
            texts = [process.communicate(timeout=300)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        return [
            types.SimpleNamespace(status=process.returncode, text=text)
            for process, text in zip(started, texts, strict=True)
        ]

    return run


def finished(runs):
    assert [run.status for run in runs] == [0] * len(runs), "\n".join(run.text for run in runs)


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    finished(start(folder))
    return folder


@pytest.fixture(scope="module")
def pair(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    finished(start(folder, count=2))
    return folder


def weights(folder, index=0, epoch=3):
    """The weights that a process had at the end of an epoch, in one row."""
    with np.load(folder / f"weights-{index}-{epoch}.npz") as file:
        return np.concatenate([file[str(i)].ravel() for i in range(len(file.files))])


def scores(folder):
    """What history.csv and results.json hold, but for the times."""
    rows = train_distributed.RunFolder(folder).read_history()
    results = train_distributed.json.loads((folder / "results.json").read_text())
    return [[v for k, v in row.items() if k != "seconds"] for row in rows], results["test"]


def assert_alike(folder, reference):
    np.testing.assert_allclose(weights(folder), weights(reference), rtol=0, atol=TOLERANCE)
    (rows, test), (wanted, wanted_test) = scores(folder), scores(reference)
    np.testing.assert_allclose(rows, wanted, atol=1e-5)
    assert test == pytest.approx(wanted_test, abs=1e-5)


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(pair, alone):
    for epoch in (1, 2, 3):
        np.testing.assert_array_equal(weights(pair, 0, epoch), weights(pair, 1, epoch))
    assert np.abs(weights(alone, epoch=3) - weights(alone, epoch=1)).max() > 100 * TOLERANCE
    assert_alike(pair, alone)


@pytest.mark.slow
def test_two_devices_of_one_process_end_with_the_weights_of_one(start, alone, tmp_path):
    (run,) = start(tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    finished([run])
    assert "2 devices in all" in run.text
    assert_alike(tmp_path, alone)


@pytest.mark.slow
def test_scores_of_all_processes_count_every_picture_once(pair):
    from tl_unet.runs import open_model

    model, _ = open_model(pair)
    pictures = figures(32, 18, seed=0)["test"]  # six, in two batches of four
    images, masks = zip(*map(pictures.load, range(6)), strict=True)
    found = model.predict(np.stack(images).astype("float32"), verbose=0) > 0.5
    masks = np.stack(masks) > 0
    _, test = scores(pair)
    assert test["iou"] == pytest.approx((found & masks).sum() / (found | masks).sum(), abs=1e-6)
    dice = 2 * (found & masks).sum() / (found.sum() + masks.sum())
    assert test["dice"] == pytest.approx(dice, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_all_and_together_they_go_on(start, pair, tmp_path, victim):
    runs = start(tmp_path, count=2, die=victim)
    assert runs[victim].status == -signal.SIGKILL
    assert runs[1 - victim].status not in (0, None)
    run = train_distributed.RunFolder(tmp_path)
    assert len(run.read_history()) == 1
    assert not run.model.exists()
    runs = start(tmp_path, count=2)
    finished(runs)
    assert "1 epochs are done" in runs[1].text
    assert_alike(tmp_path, pair)
    assert {path.name for path in run.checkpoints.iterdir()} <= {
        f"epoch-{epoch}.weights.h5" for epoch in (1, 2, 3)
    }
    assert isinstance(keras.saving.load_model(run.model, compile=False), keras.Model)
