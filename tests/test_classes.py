"""Several classes: their names in the logs, the weights of rare ones, masks that a compiled step cannot refuse."""

import csv

import keras
import numpy as np
import pytest
from tiny import shallow_unet, tiny_unet

from tl_unet import (
    CrossentropyLoss,
    DiceCoefficient,
    DiceLoss,
    FocalLoss,
    IoU,
    JaccardLoss,
    LovaszLoss,
    TverskyLoss,
    balanced_class_weights,
)
from tl_unet.classes import check_decidable, check_threshold

NAMES = ["background", "cat", "dog"]


def pixel_model(classes=3, activation="softmax"):
    """A model that cannot do much, but fits in a moment."""
    image = keras.Input((None, None, 3))
    return keras.Model(image, keras.layers.Conv2D(classes, 1, activation=activation)(image))


def pictures(classes=3, count=4, side=8):
    rng = np.random.default_rng(0)
    masks = rng.integers(0, max(2, classes), (count, side, side, 1))
    return rng.normal(0, 1, (count, side, side, 3)).astype("float32"), masks


def test_the_scores_of_named_classes_are_in_history_evaluate_and_csv(tmp_path):
    images, masks = pictures()
    masks[masks == 1] = 2  # no cat in the masks
    model = pixel_model()
    metric = IoU(class_names=NAMES)
    model.compile("sgd", DiceLoss(), metrics=[metric, DiceCoefficient(average="image")])
    log = tmp_path / "log.csv"
    history = model.fit(
        images,
        masks,
        validation_data=(images, masks),
        epochs=2,
        verbose=0,
        callbacks=[
            keras.callbacks.CSVLogger(log),
            keras.callbacks.ModelCheckpoint(
                tmp_path / "best.weights.h5",
                monitor="val_iou_dog",
                mode="max",
                save_best_only=True,
                save_weights_only=True,
            ),
        ],
    ).history
    names = {"iou", "iou_background", "iou_cat", "iou_dog"}
    assert {f"val_{name}" for name in names} | names < set(history)
    assert (tmp_path / "best.weights.h5").exists()
    with log.open() as file:
        assert names < set(next(csv.DictReader(file)))

    found = model.evaluate(images, masks, verbose=0, return_dict=True)
    assert found["iou"] == history["val_iou"][-1]
    each = np.asarray(metric.per_class())
    np.testing.assert_array_equal([found[f"iou_{name}"] for name in NAMES], each)
    plain = IoU()
    plain.update_state(masks, model.predict(images, verbose=0))
    assert found["iou"] == pytest.approx(float(plain.result()), abs=1e-6)
    assert len(model.evaluate(images, masks, verbose=0)) == 6


def test_a_named_class_that_occurs_nowhere_has_no_score():
    metric = IoU(class_names=NAMES)
    assert np.isnan(float(metric.result()["iou_cat"]))
    metric.update_state(np.array([[[0, 2]]]), np.eye(3)[np.array([[[0, 2]]])])
    scores = {name: float(score) for name, score in metric.result().items()}
    assert np.isnan(scores.pop("iou_cat"))
    assert scores == {"iou": 1.0, "iou_background": 1.0, "iou_dog": 1.0}


def test_names_of_overlapping_classes_and_of_one_object():
    metric = DiceCoefficient(multi_label=True, class_names=["cell", "nucleus"])
    mask = np.array([[[[1, 1], [1, 0]]]])
    metric.update_state(mask, np.array([[[[0.9, 0.2], [0.9, 0.1]]]]))
    scores = metric.result()
    assert (float(scores["dice_cell"]), float(scores["dice_nucleus"])) == (1.0, 0.0)
    one = IoU(class_names=["pet"])
    one.update_state(np.array([[[1]]]), np.array([[[[0.9]]]]))
    assert float(one.result()["iou_pet"]) == float(one.result()["iou"]) == 1.0


def test_names_must_be_as_many_as_output_channels():
    with pytest.raises(ValueError, match="class_names has 3 entries, but there are 1 classes"):
        IoU(class_names=NAMES).update_state(np.array([[[1]]]), np.array([[[[0.9]]]]))


LOSSES = [DiceLoss, JaccardLoss, TverskyLoss, FocalLoss, LovaszLoss, CrossentropyLoss]
WRONG = {
    "255 without ignore_index": (3, "softmax", lambda mask: np.where(mask == 0, 255, mask)),
    "between two classes": (3, "softmax", lambda mask: mask * 0.5),
    "0 and 255": (1, "sigmoid", lambda mask: mask * 255),
    "overlapping without multi_label": (
        3,
        "softmax",
        lambda mask: np.concatenate([mask > 0, mask > 0, mask > 1], axis=-1),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_impossible_mask_gives_no_number_in_a_compiled_fit(case):
    classes, activation, spoil = WRONG[case]
    images, masks = pictures(classes)
    model = pixel_model(classes, activation)
    model.compile("sgd", DiceLoss(), metrics=[IoU(), IoU(average="image", name="per_image")])
    history = model.fit(images, spoil(masks), verbose=0).history
    assert all(np.isnan(values[0]) for values in history.values()), history


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_shows_an_impossible_mask(loss, monkeypatch):
    monkeypatch.setattr("tl_unet.input_checks.values_of", lambda tensor: None)  # as in a graph
    prediction = np.full((1, 2, 2, 3), 1 / 3)
    assert np.isnan(float(loss()(np.array([[[0, 1], [2, 255]]]), prediction)))
    assert np.isfinite(float(loss(ignore_index=255)(np.array([[[0, 1], [2, 255]]]), prediction)))


def test_soft_masks_of_mixed_images_still_train():
    images, masks = pictures()
    mixed = 0.7 * np.eye(3)[masks[..., 0]] + 0.3 * np.eye(3)[masks[::-1, ..., 0]]
    model = pixel_model()
    model.compile("sgd", DiceLoss() + CrossentropyLoss())
    assert np.isfinite(model.fit(images, mixed, verbose=0).history["loss"][0])


def test_balanced_weights_give_all_classes_the_same_sum():
    masks = np.repeat([0, 1, 2, 255], [600, 300, 100, 50])
    weights = np.array(balanced_class_weights(masks, 3))
    np.testing.assert_allclose(weights * [600, 300, 100], 1000 / 3)
    np.testing.assert_allclose(balanced_class_weights(masks, 3, power=0.0), 1.0)
    root = np.array(balanced_class_weights(masks, 3, power=0.5))
    np.testing.assert_allclose(root / root[0], np.sqrt(weights / weights[0]))


def test_balanced_weights_read_what_datasets_give():
    images, masks = pictures()
    expected = balanced_class_weights(masks, 3)
    batches = [(images[:2], masks[:2]), (images[2:], masks[2:], np.ones(2))]
    assert balanced_class_weights(batches, 3) == expected
    assert balanced_class_weights(np.eye(3, dtype=bool)[masks[..., 0]], 3) == expected
    assert balanced_class_weights([mask[..., 0] for mask in masks], 3) == expected
    one = balanced_class_weights(masks == 0, 1)
    assert one[1] > one[0] > 0


def test_nested_lists_are_masks_and_no_pairs():
    masks = [[0, 0, 1, 1], [0, 1, 1, 1]]
    expected = balanced_class_weights(np.array(masks), 1)
    assert balanced_class_weights(masks, 1) == pytest.approx(expected)
    assert expected[0] > expected[1]


def test_a_class_without_pixels_weighs_nothing():
    assert balanced_class_weights(np.array([0, 0, 2]), 3) == [0.75, 0.0, 1.5]


@pytest.mark.parametrize(
    ("masks", "options", "word"),
    [
        (np.array([0, 3]), {}, "from 0 to 2"),
        (np.array([0, 0.5]), {}, "from 0 to 2"),
        (np.array([255, 255]), {}, "no pixel"),
        (np.array([255]), {"ignore_index": None}, "255"),
        (np.array([0]), {"power": -1}, "power"),
    ],
)
def test_masks_that_cannot_be_balanced_are_refused(masks, options, word):
    with pytest.raises(ValueError, match=word):
        balanced_class_weights(masks, 3, **options)


def test_the_number_of_classes_may_be_numpys_but_no_bool():
    masks = np.array([0, 0, 2])
    assert balanced_class_weights(masks, np.uint8(3)) == balanced_class_weights(masks, 3)
    for classes in (True, np.bool_(True), 0, 2.0):
        with pytest.raises(ValueError, match="`classes` must be a positive int"):
            balanced_class_weights(masks, classes)


def test_an_object_of_255_is_not_taken_for_ignored_pixels():
    with pytest.raises(ValueError, match="masks == 255"):
        balanced_class_weights(np.array([0, 0, 255]), 1)


def test_weights_bring_a_rare_class_out():
    """One channel decides; noise hides it so that the likeliest class is always the common one."""
    rng = np.random.default_rng(0)
    masks = (rng.random((8, 16, 16, 1)) < 0.05).astype("int32")
    images = (masks + rng.normal(0, 0.7, (8, 16, 16, 3))).astype("float32")
    recall = {}
    for name, weights in (("plain", None), ("balanced", balanced_class_weights(masks, 2))):
        keras.utils.set_random_seed(0)
        model = pixel_model(2)
        model.compile(keras.optimizers.Adam(0.05), CrossentropyLoss(class_weights=weights))
        model.fit(images, masks, epochs=15, batch_size=8, verbose=0)
        found = model.predict(images, verbose=0).argmax(-1)
        recall[name] = (found[masks[..., 0] == 1] == 1).mean()
    assert recall["balanced"] > recall["plain"] + 0.2, recall


def test_a_model_of_probabilities_of_exclusive_classes_can_be_decided():
    logits = pixel_model(1, activation=None)
    for model in (
        pixel_model(1, "sigmoid"),
        pixel_model(3),
        shallow_unet(),
        keras.Model(logits.input, keras.ops.sigmoid(logits.output)),  # no layer has that
        keras.Sequential([logits, keras.layers.Activation("sigmoid")]),
    ):
        check_decidable(model)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("kind", ["plain", "nested", "deeply supervised"])
def test_logits_are_refused_and_the_remedy_is_one(classes, kind):
    if kind == "deeply supervised":
        options = {"decoder": "unetplusplus", "deep_supervision": True}
        model = tiny_unet(classes=classes, activation=None, **options)
    else:
        model = shallow_unet(classes=classes, activation=None)
    if kind == "nested":
        image = keras.Input((None, None, 3))
        model = keras.Model(image, model(image))
    with pytest.raises(ValueError, match="logits.*'mask'") as error:
        check_decidable(model)
    remedy = eval(str(error.value).split("`")[1], {"keras": keras, "model": model})
    check_decidable(remedy)
    image = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 3))
    probabilities = np.asarray(remedy(image))
    assert probabilities.min() >= 0
    if classes > 1:
        np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)


def test_more_classes_than_a_mask_can_number_are_refused():
    check_decidable(pixel_model(255))
    with pytest.raises(ValueError, match="300 classes"):
        check_decidable(pixel_model(300))


@pytest.mark.parametrize("threshold", [127, -0.1, float("nan"), "0.5"])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be a finite number from 0 to 1"):
        check_threshold(threshold, 1)


def test_a_threshold_that_would_be_ignored_is_refused():
    check_threshold(0.9, 1)
    check_threshold(0.5, 3)
    with pytest.raises(ValueError, match="the likeliest"):
        check_threshold(0.9, 3)


def test_classes_that_may_overlap_are_refused():
    with pytest.raises(ValueError, match="may overlap.*threshold for each class"):
        check_decidable(shallow_unet(classes=3, activation="sigmoid"))
