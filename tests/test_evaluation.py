"""Scores of a model on a folder: the same as the metrics', with intervals that hold what they say."""

import csv
import json
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from test_training import write_pairs
from tiny import shallow_unet

import tl_unet
from tl_unet.data import image_mask_dataset
from tl_unet.evaluation import Evaluation, _scores, count_confusion, evaluate_folder, write_report

LABELS = {2: 0, 1: 1}


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "data", count=5)


def reading(threshold=100.0):
    """A model that knows: bright pixels are the disc."""
    image = keras.Input((None, None, 3))
    grey = keras.layers.Conv2D(1, 1, name="grey", activation="sigmoid")(image)
    model = keras.Model(image, grey)
    model.get_layer("grey").set_weights([np.full((1, 1, 3, 1), 1 / 3), np.array([-threshold])])
    return model


@pytest.mark.parametrize("classes", [1, 3])
def test_scores_are_those_of_the_metrics(classes, pairs):
    model = shallow_unet(classes=classes)
    labels = LABELS if classes == 1 else {2: 0, 1: 2}
    found = evaluate_folder(model, *pairs, size=32, labels=labels, batch_size=2)
    subset = image_mask_dataset(
        *pairs, size=32, labels=labels, classes=None if classes == 1 else 3, batch_size=2
    )
    metrics = [
        tl_unet.IoU(),
        tl_unet.DiceCoefficient(),
        tl_unet.IoU(average="image", name="iou_image"),
        keras.metrics.BinaryAccuracy(name="accuracy")
        if classes == 1
        else keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
    ]
    if classes == 1:
        metrics += [keras.metrics.Precision(name="precision"), keras.metrics.Recall(name="recall")]
    model.compile(loss=tl_unet.DiceLoss(), metrics=metrics)
    expected = model.evaluate(subset.dataset, verbose=0, return_dict=True)
    scores = found.summary()
    for name in ("iou", "dice", "accuracy", "precision", "recall"):
        if name in expected:
            assert scores["dataset"][name] == pytest.approx(expected[name], abs=1e-5), name
    assert scores["mean_of_images"]["iou"] == pytest.approx(expected["iou_image"], abs=1e-5)


def test_a_model_that_knows_scores_one_in_every_image(pairs):
    found = evaluate_folder(reading(), *pairs, size=32, labels=LABELS)
    assert found.summary()["dataset"] == dict.fromkeys(
        ("iou", "dice", "precision", "recall", "accuracy"), 1.0
    )
    assert found.summary()["interval"]["dataset_iou"] == [1.0, 1.0]


def test_threshold_and_augmentation_change_the_scores(pairs):
    model = shallow_unet()

    def iou(**options):
        found = evaluate_folder(model, *pairs, size=32, labels=LABELS, **options)
        return found.summary()["dataset"]["iou"]

    plain = iou()
    assert iou(threshold=0.45) != plain
    assert iou(augment=["horizontal_flip"]) != plain


def test_ignored_pixels_are_left_out():
    np.testing.assert_array_equal(
        count_confusion([[0, 255], [1, 2]], [[0, 2], [2, 2]], 3), [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    )


def test_an_image_without_the_object_scores_one_if_none_is_found():
    assert _scores(np.zeros((1, 1, 3), int))["iou"].tolist() == [1.0]
    assert _scores(np.array([[[0, 5, 0]]]))["iou"].tolist() == [0.0]


def test_intervals_are_those_of_drawing_images_anew():
    random = np.random.default_rng(0)
    counts = random.integers(1, 100, (40, 2, 3))
    found = Evaluation([str(i) for i in range(40)], counts, np.eye(2, dtype=int), 1).summary()
    draws = random.integers(0, 40, (20_000, 40))
    each = counts[:, 1].astype(float)
    sums = each[draws].sum(axis=1)

    def iou(part):
        return part[:, 0] / part.sum(axis=1)

    def dice(part):
        return 2 * part[:, 0] / (part[:, 0] + part.sum(axis=1))

    drawn = {"dataset_iou": iou(sums), "dataset_dice": dice(sums)}
    drawn["mean_of_images_iou"] = iou(each)[draws].mean(axis=1)
    drawn["mean_of_images_dice"] = dice(each)[draws].mean(axis=1)
    assert found["interval"].keys() == drawn.keys()
    for name, values in drawn.items():
        expected = np.percentile(values, (2.5, 97.5))
        # One of 90 % would be narrower by a sixth.
        width = expected[1] - expected[0]
        np.testing.assert_allclose(found["interval"][name], expected, atol=width / 20)


def test_one_image_has_no_interval():
    counts = np.ones((1, 2, 3), int)
    assert Evaluation(["a"], counts, np.eye(2, dtype=int), 1).summary()["interval"] is None


def test_report_lists_the_worst_first_and_draws_them(pairs, tmp_path):
    images, masks = pairs
    Image.new("RGB", (32, 32), "black").save(images / "all wrong.png")
    Image.new("L", (32, 32), 1).save(masks / "all wrong.png")
    found = evaluate_folder(reading(), images, masks, size=32, labels=LABELS)
    paths = write_report(found, tmp_path / "report")
    assert {path.name for path in paths} == {path.name for path in (tmp_path / "report").iterdir()}
    with (tmp_path / "report" / "per_image.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows][0] == found.worst[0].name == "all wrong"
    assert [float(row["iou"]) for row in rows] == [0.0] + [1.0] * 5
    assert json.loads((tmp_path / "report" / "scores.json").read_text())["images"] == 6
    assert Image.open(tmp_path / "report" / "worst.png").size[1] > 300


def test_a_class_that_occurs_nowhere_has_no_score(pairs):
    model = shallow_unet(classes=4)
    head = model.get_layer("logits")
    kernel, _ = head.get_weights()
    head.set_weights([kernel, np.array([0, 0, -1e4, -1e4])])  # never predicts the last two
    found = evaluate_folder(model, *pairs, size=32, labels={2: 0, 1: 1})
    scores = found.per_class()["iou"]
    assert np.isnan(scores).tolist() == [False, False, True, True]
    assert found.summary()["per_class"]["iou"][2:] == [None, None]


def test_scores_of_classes_have_their_names_in_every_file(pairs, tmp_path):
    names = ["ground", "disc", "nowhere"]
    found = evaluate_folder(
        shallow_unet(classes=3), *pairs, size=32, labels={2: 0, 1: 1}, class_names=names
    )
    write_report(found, tmp_path)
    assert json.loads((tmp_path / "scores.json").read_text())["class_names"] == names
    with (tmp_path / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == names
    assert [float(row["iou"]) for row in rows] == pytest.approx(
        found.per_class()["iou"], nan_ok=True
    )
    assert sum(int(row["true_pixels"]) for row in rows) == 5 * 32 * 32
    with (tmp_path / "per_image.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert [key for key in first if key.startswith("iou_")] == [f"iou_{name}" for name in names]
    occur = [float(first[f"iou_{name}"]) for name in names]
    assert np.nanmean(occur) == pytest.approx(float(first["iou"]))


def test_names_of_another_number_are_an_error_before_the_work():
    with pytest.raises(ValueError, match="class_names has 2"):
        evaluate_folder(reading(), "nowhere", "nowhere", class_names=["a", "b"])


def test_logits_and_classes_that_may_overlap_are_an_error_before_the_work():
    with pytest.raises(ValueError, match="logits"):
        evaluate_folder(shallow_unet(activation=None), "nowhere", "nowhere")
    with pytest.raises(ValueError, match="may overlap"):
        evaluate_folder(shallow_unet(classes=2, activation="sigmoid"), "nowhere", "nowhere")


def test_a_threshold_out_of_range_is_an_error_before_the_work():
    with pytest.raises(ValueError, match="threshold"):
        evaluate_folder(shallow_unet(), "nowhere", "nowhere", threshold=127)


def test_without_scipy_an_error_before_the_work_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match="pip install .*scipy"):
        evaluate_folder(reading(), "nowhere", "nowhere")
    found = Evaluation(["a", "b"], np.ones((2, 2, 3), int), np.eye(2, dtype=int), 1)
    with pytest.raises(ImportError, match="pip install .*scipy"):
        found.summary()


def test_images_without_a_labelled_pixel_have_no_scores(pairs):
    images, masks = pairs
    labels = {1: 1, 2: 0, 255: 255}
    every = evaluate_folder(reading(), images, masks, size=32, labels=labels)
    first = every.names[0]
    path = next(masks.glob(f"{first}.*"))
    mask = np.asarray(Image.open(path))
    Image.fromarray(np.full_like(mask, 255)).save(path)
    found = evaluate_folder(reading(), images, masks, size=32, labels=labels)
    assert (found.unlabelled, found.names) == ([first], every.names[1:])
    summary = found.summary()
    assert (summary["images"], summary["unlabelled"]) == (len(every.names) - 1, 1)
    rows = {row["name"]: row for row in every.per_image()}
    assert {row["name"]: row for row in found.per_image()} == {
        name: row for name, row in rows.items() if name != first
    }
    for path in masks.iterdir():
        Image.fromarray(np.full_like(mask, 255)).save(path)
    with pytest.raises(ValueError, match="No pixel of the masks"):
        evaluate_folder(reading(), images, masks, size=32, labels=labels)


def test_labels_of_more_classes_than_the_model_has_are_an_error(pairs):
    with pytest.raises(ValueError, match="the model has 1"):
        evaluate_folder(reading(), *pairs, size=32, labels={1: 0, 2: 4})
