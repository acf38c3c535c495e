"""`tl-unet train`: what it does with its options, and how it ends."""

import json

import pytest
from test_training import eagerly, pairs, tiny  # noqa: F401  (fixtures)
from typer.testing import CliRunner

from tl_unet import training
from tl_unet.runs import RunFolder, write_json
from tl_unet_cli.app import app

ROW = {
    "stage": 1,
    "loss": 0.5,
    "iou": 0.5,
    "dice": 0.6,
    "val_loss": 0.5,
    "val_iou": 0.5,
    "val_dice": 0.6,
    "learning_rate": 1e-3,
    "seconds": 65.0,
}


def run(*arguments, status=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def stub(monkeypatch):
    """Stands for the training: keeps what it was told."""
    told = {}

    def fake(options, output, report):
        told["options"] = options
        report("data", train=6, validation=2)
        report("stage", stage=1, epochs=1, parameters=1234)
        report("batch", epoch=1, step=1, steps=2, loss=0.5)
        report("epoch", epochs=2, best=1, seconds_left=130.0, epoch=1, **ROW)
        found = {"model": f"{output}/model.keras", "epochs": 2, "best_epoch": 1}
        return found | {"val_iou": 0.5, "val_dice": 0.6, "seconds": 65.0}

    monkeypatch.setattr(training, "train", fake)
    return told


def test_a_training_from_the_command_line(tiny, pairs, eagerly, tmp_path):  # noqa: F811
    output = tmp_path / "run"
    arguments = ["--images", pairs[0], "--masks", pairs[1], "--encoder", "tiny"]
    arguments += ["--weights", tiny, "--size", "32", "--labels", "1:1,2:0", "--epochs", 1]
    arguments += ["--decoder-filters", "8,8", "--no-augment", "--output", output]
    result = run("train", *arguments)
    assert "images to train" in result.stderr
    assert "validation IoU" in result.stdout
    assert (output / "model.keras").exists()
    # It is complete: nothing is trained again.
    found = json.loads(run("train", "--resume", "--output", output, "--json").stdout)
    assert found["epochs"] == 1
    run("train", *arguments, status=2)
    assert "--resume" in run("train", *arguments, status=2).stderr


def test_options_reach_the_training(stub, pairs, tmp_path):  # noqa: F811
    run(
        *("train", "--images", pairs[0], "--masks", pairs[1], "-o", tmp_path / "run"),
        *("--encoder", "resnet50", "--weights", "none", "--size", "64x96", "--epochs", 7),
        *("--batch-size", 3, "--learning-rate", 0.01, "--loss", "focal", "--no-augment"),
        *("--labels", "#ff0000:1,*:0", "--classes", 2, "--mask-suffix", "_m", "--recursive"),
        *("--limit", 9, "--channels", 4, "--decoder-filters", "5,4,3,2,1", "--seed", 5),
        *("--normalization", "none", "--upsampling", "bilinear", "--dropout", 0.1),
        *("--mixed-precision", "bfloat16", "--val-share", 0.4, "--class-names", "back, cell"),
        *("--class-weights", "0.5,2"),
        *("--decoder", "unetplusplus", "--group", "[^_]+"),
    )
    options = stub["options"]
    expected = {
        "encoder": "resnet50",
        "weights": None,
        "size": (64, 96),
        "epochs": 7,
        "freeze_epochs": 0,
        "batch_size": 3,
        "learning_rate": 0.01,
        "loss": "focal",
        "augment": False,
        "labels": {(255, 0, 0): 1, None: 0},
        "classes": 2,
        "mask_suffix": "_m",
        "recursive": True,
        "limit": 9,
        "channels": 4,
        "decoder": "unetplusplus",
        "decoder_filters": (5, 4, 3, 2, 1),
        "seed": 5,
        "normalization": None,
        "upsampling": "bilinear",
        "dropout": 0.1,
        "mixed_precision": "bfloat16",
        "val_share": 0.4,
        "group": "[^_]+",
        "class_names": ("back", "cell"),
        "class_weights": (0.5, 2.0),
        "images": str(pairs[0]),
        "masks": str(pairs[1]),
        "val_images": None,
        "val_masks": None,
    }
    assert {name: getattr(options, name) for name in expected} == expected
    assert set(expected) == set(training.TrainingOptions.__dataclass_fields__)


def test_defaults_are_those_of_the_library(stub, pairs, tmp_path):  # noqa: F811
    run("train", "--images", pairs[0], "--masks", pairs[1], "-o", tmp_path / "run")
    assert stub["options"] == training.TrainingOptions(*pairs)


def test_progress_goes_to_the_standard_error_and_json_to_the_output(stub, pairs, tmp_path):  # noqa: F811
    arguments = ["train", "--images", pairs[0], "--masks", pairs[1], "-o", tmp_path / "run"]
    result = run(*arguments)
    assert "epoch 1/2: loss 0.5000" in result.stderr
    assert "1:05 min, about 2:10 min left" in result.stderr
    assert "Best epoch 1 of 2" in result.stdout
    assert json.loads(run(*arguments, "--json").stdout)["val_iou"] == 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        ["--encoder", "vgg61"],
        ["--size", "big"],
        ["--size", "0"],
        ["--labels", "1=1"],
        ["--epochs", "0"],
        ["--epochs", "many"],
        ["--weights", "nowhere.h5"],
        ["--weights", "none", "--freeze-epochs", "2"],
        ["--decoder-filters", "a,b"],
        ["--loss", "magic"],
        ["--mixed-precision", "float8"],
        ["--images", "nowhere"],
        ["--magic"],
    ],
)
def test_wrong_usage_ends_with_status_2(wrong, pairs, tmp_path):  # noqa: F811
    result = run(
        *("train", "--images", pairs[0], "--masks", pairs[1], "-o", tmp_path / "run", *wrong),
        status=2,
    )
    assert result.stderr.strip()
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


def test_images_or_resume_are_needed(tmp_path):
    assert "--resume" in run("train", "-o", tmp_path / "run", status=2).stderr
    assert "holds no run" in run("train", "--resume", "-o", tmp_path / "run", status=2).stderr


def test_images_that_are_wrong_end_with_status_1_and_are_listed(tiny, pairs, tmp_path):  # noqa: F811
    (pairs[0] / "größe_1.png").write_text("no picture")
    arguments = ["--images", pairs[0], "--masks", pairs[1], "--encoder", "tiny", "--weights", tiny]
    result = run("train", *arguments, "-o", tmp_path / "run", "--labels", "1:1,2:0", status=1)
    assert "größe_1: the image cannot be read" in result.stderr


def test_an_output_that_cannot_be_written_ends_with_1(pairs, tmp_path):  # noqa: F811
    arguments = ["--images", pairs[0], "--masks", pairs[1], "--labels", "1:1,2:0"]
    (tmp_path / "file").write_text("")
    result = run("train", *arguments, "-o", tmp_path / "file" / "run", status=1)
    assert "Not a directory" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("error", [training.TrainingDiverged("diverged"), OSError("disk full")])
def test_a_training_that_fails_ends_with_status_1(error, pairs, tmp_path, monkeypatch):  # noqa: F811
    def fail(options, output, report):
        raise error

    monkeypatch.setattr(training, "train", fail)
    result = run("train", "--images", pairs[0], "--masks", pairs[1], "-o", tmp_path, status=1)
    assert str(error) in result.stderr
    assert result.stdout == ""


def test_ctrl_c_says_how_to_go_on(tiny, pairs, tmp_path, monkeypatch):  # noqa: F811
    begun = False

    def stop(options, output, report):
        if begun:
            run_folder = RunFolder(output)
            run_folder.path.mkdir()
            run_folder.settings.write_text("{}")
            run_folder.write_history([{"epoch": 1, **ROW}])
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stop)
    output = tmp_path / "run"
    arguments = ["--images", pairs[0], "--masks", pairs[1], "--epochs", 9, "--output", output]
    result = run("train", *arguments, status=130)
    assert "nothing to go on with" in result.stderr
    begun = True
    result = run("train", *arguments, status=130)
    assert "1 of 9 epochs" in result.stderr
    assert f"tl-unet train --resume --output {output}" in result.stderr


def test_resume_refuses_other_options_than_the_trainings_own(tiny, pairs, tmp_path, monkeypatch):  # noqa: F811
    chosen = training.TrainingOptions(*pairs, epochs=9)
    output = tmp_path / "run"
    output.mkdir()
    settings = {"options": chosen.to_json(), "versions": {}, "names": {}}
    RunFolder(output).settings.write_text(json.dumps(settings))
    seen = []

    def resume(output, report):
        seen.append(output)
        raise training.TrainingDiverged("far enough")

    monkeypatch.setattr(training, "resume", resume)
    result = run("train", "--resume", "-o", output, "--epochs", 10, status=2)
    assert "--epochs differs" in result.stderr
    assert not seen
    result = run("train", "--resume", "-o", output, "--encoder", "vgg16", "--epochs", 2, status=2)
    assert "--encoder, --epochs differs" in result.stderr
    run("train", "--resume", "-o", output, "--epochs", 9, status=1)
    run("train", "--resume", "-o", output, status=1)
    assert len(seen) == 2


def test_resume_takes_options_that_are_the_trainings_own(pairs, tmp_path, monkeypatch):  # noqa: F811
    """They are judged among the stored ones: four filters would not do for the encoder that is the default."""
    chosen = training.TrainingOptions(
        *pairs, encoder="vgg16", weights=None, decoder_filters=(9, 8, 7, 6), labels={1: 1, 2: 0}
    )
    assert chosen.freeze_epochs == 0
    output = tmp_path / "run"
    write_json(
        RunFolder(output).settings, {"options": chosen.to_json(), "versions": {}, "names": {}}
    )
    seen = []

    def resume(output, report):
        seen.append(output)
        raise training.TrainingDiverged("far enough")

    monkeypatch.setattr(training, "resume", resume)
    given = ["train", "--resume", "-o", output]
    run(*given, "--decoder-filters", "9,8,7,6", status=1)
    run(*given, "--images", pairs[0], "--masks", pairs[1], "--labels", "1:1,2:0", status=1)
    run(*given, "--freeze-epochs", 0, "--weights", "none", "--size", 256, status=1)
    assert len(seen) == 3
    result = run(*given, "--decoder-filters", "9,8,7", status=2)
    assert "--decoder-filters differs" in result.stderr
    run(*given, "--decoder-filters", "a", status=2)
