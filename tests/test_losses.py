"""Laws of the losses: range, perfect and empty masks, weights, arithmetic."""

import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from keras import ops

from tl_unet.losses import (
    CrossentropyLoss,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    LossSum,
    LovaszLoss,
    TverskyLoss,
)

quick = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**32 - 1)
OVERLAP = [DiceLoss, JaccardLoss, TverskyLoss, LovaszLoss]
LOSSES = [*OVERLAP, FocalLoss, CrossentropyLoss]
losses = st.sampled_from(LOSSES)
averages = st.sampled_from(["batch", "image"])


def random_pair(seed, classes=1, batch=2, side=5):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, max(classes, 2), (batch, side, side, 1))
    if classes == 1:
        return mask, rng.random((batch, side, side, 1)).astype("float32")
    return mask, rng.dirichlet(np.ones(classes), (batch, side, side)).astype("float32")


def perfect(mask, classes):
    return (
        mask.astype("float32") if classes == 1 else np.eye(classes, dtype="float32")[mask[..., 0]]
    )


@quick
@given(seeds, st.sampled_from(OVERLAP), averages, st.sampled_from([1, 3]), st.sampled_from([0, 1]))
def test_overlap_losses_lie_between_0_and_1(seed, loss, average, classes, hard):
    mask, prediction = random_pair(seed, classes)
    if hard:
        prediction = perfect(random_pair(seed + 1, classes)[0], classes)
    assert -1e-6 <= float(loss(average=average)(mask, prediction)) <= 1 + 1e-6


@quick
@given(seeds, losses, averages, st.sampled_from([1, 3]))
def test_a_perfect_prediction_costs_nothing(seed, loss, average, classes):
    mask, _ = random_pair(seed, classes)
    assert abs(float(loss(average=average)(mask, perfect(mask, classes)))) < 1e-6


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("average", ["batch", "image"])
def test_an_empty_mask_predicted_empty_costs_nothing(loss, average):
    empty = np.zeros((2, 4, 4, 1))
    assert abs(float(loss(average=average)(empty, empty))) < 1e-6


@quick
@given(seeds, losses, averages, st.floats(0.1, 1.0))
def test_false_positives_on_an_empty_mask_cost_and_more_cost_more(seed, loss, average, level):
    rng = np.random.default_rng(seed)
    empty = np.zeros((2, 5, 5, 1))
    wrong = (rng.random(empty.shape) < 0.5) * level
    assume(wrong[0].any() and wrong[1].any())
    loss = loss(average=average)
    assert 1e-6 < float(loss(empty, wrong * 0.5)) < float(loss(empty, wrong))


@quick
@given(seeds, losses, averages, st.sampled_from([1, 3]), st.booleans())
def test_logits_cost_what_their_probabilities_cost(seed, loss, average, classes, multi_label):
    mask, _ = random_pair(seed, classes)
    logits = np.random.default_rng(seed).normal(0, 2, (2, 5, 5, classes)).astype("float32")
    sigmoid = classes == 1 or multi_label
    probabilities = ops.sigmoid(logits) if sigmoid else ops.softmax(logits, axis=-1)
    probabilities = ops.convert_to_numpy(probabilities)
    options = {"average": average, "multi_label": multi_label}
    expected = float(loss(**options)(mask, probabilities))
    assert abs(float(loss(from_logits=True, **options)(mask, logits)) - expected) < 1e-5


@quick
@given(seeds, losses, averages)
def test_the_order_of_pixels_means_nothing(seed, loss, average):
    mask, prediction = random_pair(seed)
    order = np.random.default_rng(seed).permutation(25)
    shuffled = [x.reshape(2, 25, 1)[:, order].reshape(2, 5, 5, 1) for x in (mask, prediction)]
    loss = loss(average=average)
    assert abs(float(loss(mask, prediction)) - float(loss(*shuffled))) < 1e-5


@quick
@given(seeds, losses, averages, st.sampled_from([1, 3]))
def test_ignored_pixels_cost_nothing_whatever_is_predicted(seed, loss, average, classes):
    mask, prediction = random_pair(seed, classes)
    other = random_pair(seed + 1, classes)[1]
    ignored = np.random.default_rng(seed).random(mask.shape) < 0.4
    mask = np.where(ignored, 255, mask)
    loss = loss(average=average, ignore_index=255)
    expected = float(loss(mask, prediction))
    assert abs(float(loss(mask, np.where(ignored, other, prediction))) - expected) < 1e-6
    assert np.isclose(float(loss(mask, np.where(ignored, np.nan, prediction))), expected, atol=1e-6)


@quick
@given(seeds, losses)
def test_averaging_over_images_is_the_mean_of_single_images(seed, loss):
    mask, prediction = random_pair(seed, batch=3)
    single = [float(loss()(mask[i : i + 1], prediction[i : i + 1])) for i in range(3)]
    assert abs(float(loss(average="image")(mask, prediction)) - np.mean(single)) < 1e-5
    each = ops.convert_to_numpy(loss(average="image", reduction=None)(mask, prediction))
    np.testing.assert_allclose(each, single, atol=1e-5)


@quick
@given(seeds)
def test_dice_with_its_defaults_is_one_plus_the_loss_of_the_paper(seed):
    mask, prediction = random_pair(seed)
    paper = -(2 * (mask * prediction).sum() + 1) / (mask.sum() + prediction.sum() + 1)
    assert abs(float(DiceLoss()(mask, prediction)) - (1 + paper)) < 1e-6


@quick
@given(seeds)
def test_tversky_has_dice_and_jaccard_as_special_cases(seed):
    mask, prediction = random_pair(seed)
    dice, jaccard = float(DiceLoss()(mask, prediction)), float(JaccardLoss()(mask, prediction))
    assert abs(float(TverskyLoss(0.5, 0.5, smooth=0.5)(mask, prediction)) - dice) < 1e-6
    assert abs(float(TverskyLoss(1.0, 1.0)(mask, prediction)) - jaccard) < 1e-6
    plain = float(DiceLoss(smooth=0.0)(mask, prediction))
    assert abs(float(JaccardLoss(smooth=0.0)(mask, prediction)) - 2 * plain / (1 + plain)) < 1e-5


def test_tversky_alpha_weighs_false_positives_and_beta_false_negatives():
    ones, zeros = np.ones((1, 4, 4, 1)), np.zeros((1, 4, 4, 1))
    assert float(TverskyLoss(alpha=0.1, beta=0.9)(zeros, ones)) < float(DiceLoss()(zeros, ones))
    assert float(TverskyLoss(0.0, 1.0)(zeros, ones)) == 0.0
    assert float(TverskyLoss(1.0, 0.0)(ones, zeros)) == 0.0


@quick
@given(seeds, averages)
def test_lovasz_of_hard_predictions_is_the_jaccard_loss(seed, average):
    mask, prediction = random_pair(seed)
    hard = prediction > 0.5
    expected = float(JaccardLoss(smooth=0.0, average=average)(mask, hard))
    assert abs(float(LovaszLoss(average=average)(mask, hard)) - expected) < 1e-5


def lovasz_by_definition(target, probability):
    """Berman et al., equation 9, with sets in place of closed forms."""
    errors = np.abs(target - probability)
    order = np.argsort(-errors, kind="stable")
    wrong, before, total = set(), 0.0, 0.0
    positives = set(np.flatnonzero(target))
    for index in order:
        wrong.add(index)
        delta = len(wrong) / len(positives | wrong)
        total += errors[index] * (delta - before)
        before = delta
    return total


@quick
@given(seeds)
def test_lovasz_is_the_extension_that_its_authors_define(seed):
    mask, prediction = random_pair(seed)
    expected = lovasz_by_definition(mask.ravel(), prediction.ravel().astype("float64"))
    assert abs(float(LovaszLoss()(mask, prediction)) - expected) < 1e-5


def test_lovasz_averages_the_exclusive_classes_that_occur():
    mask, prediction = random_pair(0, classes=3)
    mask = np.minimum(mask, 1)
    each = [
        lovasz_by_definition((mask == c).ravel(), prediction[..., c].ravel().astype("float64"))
        for c in range(3)
    ]
    assert abs(float(LovaszLoss()(mask, prediction)) - np.mean(each[:2])) < 1e-5
    overlapping = LovaszLoss(multi_label=True)(mask, prediction)
    assert abs(float(overlapping) - np.mean(each)) < 1e-5


@quick
@given(seeds, st.sampled_from([1, 3]))
def test_focal_with_gamma_0_is_keras_cross_entropy(seed, classes):
    mask, prediction = random_pair(seed, classes)
    keras_loss = (
        keras.losses.BinaryCrossentropy()
        if classes == 1
        else keras.losses.SparseCategoricalCrossentropy()
    )
    expected = float(keras_loss(mask, prediction))
    assert abs(float(FocalLoss(gamma=0.0)(mask, prediction)) - expected) < 1e-5


@quick
@given(seeds, st.sampled_from([1, 3]), averages)
def test_crossentropy_is_focal_with_gamma_0(seed, classes, average):
    mask, prediction = random_pair(seed, classes)
    expected = float(FocalLoss(gamma=0, average=average)(mask, prediction))
    assert float(CrossentropyLoss(average=average)(mask, prediction)) == expected


@quick
@given(seeds, st.floats(0.5, 4.0), st.sampled_from([None, 0.25, 0.9]))
def test_focal_agrees_with_keras_where_keras_is_sound(seed, gamma, alpha):
    mask, prediction = random_pair(seed)
    expected = keras.losses.BinaryFocalCrossentropy(
        apply_class_balancing=alpha is not None, alpha=alpha or 0.5, gamma=gamma
    )(mask, prediction)
    assert abs(float(FocalLoss(gamma, alpha)(mask, prediction)) - float(expected)) < 1e-5
    classes, outputs = random_pair(seed, 3)
    one_hot = perfect(classes, 3)
    expected = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=gamma)(one_hot, outputs)
    assert abs(float(FocalLoss(gamma)(classes, outputs)) - float(expected)) < 1e-5


@quick
@given(seeds, losses, st.sampled_from(["batch", "image"]))
def test_class_weights_of_one_channel_weigh_background_and_foreground(seed, loss, average):
    mask, p = random_pair(seed)
    both = np.concatenate([1 - p, p], axis=-1)
    weights = [0.3, 1.7]
    as_two = loss(average=average, class_weights=weights)(mask, both)
    assert abs(float(loss(average=average, class_weights=weights)(mask, p)) - float(as_two)) < 1e-5
    assert abs(float(as_two) - float(loss(average=average)(mask, p))) > 1e-7


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("multi_label", [False, True])
def test_a_class_of_weight_0_costs_nothing(loss, multi_label):
    mask = np.array([[[[0], [0], [1], [2]]]])
    fine, wrong = np.eye(3)[[0, 0, 1, 2]], np.eye(3)[[0, 1, 1, 1]]
    if multi_label:  # Only the channel of class 0 errs.
        wrong = fine.copy()
        wrong[1, 0] = 0.0
    loss = loss(class_weights=[0.0, 1.0, 1.0], multi_label=multi_label)
    assert abs(float(loss(mask, fine[None, None]))) < 1e-6
    if multi_label:
        assert abs(float(loss(mask, wrong[None, None]))) < 1e-6
    else:
        assert float(loss(mask, wrong[None, None])) > 0.1


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("multi_label", [False, True])
def test_the_more_a_class_weighs_the_more_its_errors_cost(loss, multi_label):
    mask = np.array([[[[0], [0], [1], [2]]]])
    wrong = np.full((1, 1, 4, 3), 0.05)
    wrong[0, 0, range(4), [0, 0, 1, 1]] = 0.9  # the only pixel of class 2 is missed
    costs = [
        float(loss(class_weights=[1, 1, rare], multi_label=multi_label)(mask, wrong))
        for rare in (0.5, 1, 5)
    ]
    assert costs[0] < costs[1] < costs[2]
    assert costs[1] == pytest.approx(float(loss(multi_label=multi_label)(mask, wrong)), abs=1e-6)


@quick
@given(seeds, losses, averages)
def test_weights_of_pixels_of_0_are_ignored_pixels(seed, loss, average):
    mask, prediction = random_pair(seed)
    kept = np.random.default_rng(seed).random((2, 5, 5)) < 0.6
    assume(kept.any(axis=(1, 2)).all())
    ignoring = loss(average=average, ignore_index=255)(
        np.where(kept[..., None], mask, 255), prediction
    )
    weighted = loss(average=average)(mask, prediction, sample_weight=kept)
    same = loss(average=average)(mask, prediction, sample_weight=kept[..., None])
    if issubclass(loss, FocalLoss):  # As in Keras the mean is over all pixels, whatever they weigh.
        share = kept.mean() if average == "batch" else kept.mean(axis=(1, 2))
        each = loss(average=average, ignore_index=255, reduction=None)(
            np.where(kept[..., None], mask, 255), prediction
        )
        ignoring = np.mean(ops.convert_to_numpy(each) * share)
    assert abs(float(weighted) - float(ignoring)) < 1e-5
    assert float(same) == float(weighted)


@quick
@given(seeds, losses)
def test_weights_of_images_multiply_the_losses_of_images(seed, loss):
    mask, prediction = random_pair(seed)
    each = ops.convert_to_numpy(loss(average="image", reduction=None)(mask, prediction))
    weights = np.array([0.5, 2.0])
    got = loss(average="image")(mask, prediction, sample_weight=weights)
    assert abs(float(got) - np.mean(each * weights)) < 1e-5
    column = loss(average="image")(mask, prediction, sample_weight=weights[:, None])
    assert float(column) == float(got)


@quick
@given(seeds, st.sampled_from(OVERLAP))
def test_an_image_of_weight_0_is_left_out_of_the_batch(seed, loss):
    mask, prediction = random_pair(seed)
    got = loss()(mask, prediction, sample_weight=np.array([0.0, 1.0]))
    assert abs(float(got) - float(loss()(mask[1:], prediction[1:]))) < 1e-5


@pytest.mark.parametrize("shape", [(2, 5), (3,), (2, 5, 4), (2, 5, 5, 3), (2, 1, 1), ()])
def test_sample_weights_of_another_shape_are_refused(shape):
    mask, prediction = random_pair(0)
    with pytest.raises(ValueError, match="sample_weight has the shape"):
        DiceLoss()(mask, prediction, sample_weight=np.ones(shape))


def test_reduction_sum_adds_images():
    mask, prediction = random_pair(0)
    mean = DiceLoss(average="image")(mask, prediction)
    total = DiceLoss(average="image", reduction="sum")(mask, prediction)
    assert abs(float(total) - 2 * float(mean)) < 1e-6
    assert ops.shape(DiceLoss(reduction=None)(mask, prediction)) == (1,)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_predictions_of_a_megapixel_give_accurate_losses(loss, dtype):
    rows = np.arange(1024)[None, :, None, None] % 4
    mask = np.broadcast_to(rows == 0, (1, 1024, 1024, 1))
    prediction = np.where(mask, 0.75, 0.125).astype("float32")
    small = float(
        loss(**({"smooth": 0.0} if hasattr(loss(), "smooth") else {}))(
            mask[:, :4, :4], prediction[:, :4, :4]
        )
    )
    value = loss()(mask, ops.cast(prediction, dtype))
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    assert abs(float(value) - small) < 2e-4


def test_losses_add_and_scale():
    mask, prediction = random_pair(0)
    mask = mask.astype("float32")
    parts = [DiceLoss(), FocalLoss(), keras.losses.BinaryCrossentropy()]
    dice, focal, crossentropy = (float(part(mask, prediction)) for part in parts)
    cases = [
        (parts[0] + 0.5 * parts[1], dice + 0.5 * focal),
        (parts[0] + parts[2], dice + crossentropy),
        (parts[2] + parts[0] * 2, crossentropy + 2 * dice),
        (0.5 * (parts[0] + 3 * (parts[1] + parts[2])), 0.5 * dice + 1.5 * (focal + crossentropy)),
        (sum(parts[:2]), dice + focal),
        (LossSum([parts[2]], [2]), 2 * crossentropy),
    ]
    for loss, expected in cases:
        assert isinstance(loss, keras.losses.Loss)
        assert abs(float(loss(mask, prediction)) - expected) < 1e-5
        assert abs(float(loss.call(mask, prediction)) - expected) < 1e-5


def test_sums_hand_on_sample_weights():
    mask, prediction = random_pair(0, batch=5)
    mask = mask.astype("float32")
    own, other = DiceLoss(average="image"), keras.losses.BinaryCrossentropy()
    for shape in [(5,), (5, 1), (5, 5, 5), (5, 5, 5, 1)]:
        weights = np.random.default_rng(0).random(shape)
        pixels = weights.reshape(5, 1, 1) if len(shape) < 3 else weights.reshape(5, 5, 5)
        each = keras.losses.BinaryCrossentropy(reduction=None)(mask, prediction)
        expected = np.mean(ops.convert_to_numpy(each) * pixels)
        expected += float(own(mask, prediction, sample_weight=weights))
        assert abs(float((own + other)(mask, prediction, sample_weight=weights)) - expected) < 1e-5


@pytest.mark.parametrize(
    "batch", [2, 5]
)  # five: as many as the sides, where shapes would broadcast
def test_sums_with_a_loss_of_keras_take_masks_without_a_channel_axis(batch):
    mask, prediction = random_pair(0, batch=batch)
    mask = mask.astype("float32")
    loss = DiceLoss() + keras.losses.BinaryCrossentropy()
    for weights in (None, np.arange(batch), np.random.default_rng(0).random((batch, 5, 5))):
        flat = float(loss(mask[..., 0], prediction, sample_weight=weights))
        assert abs(flat - float(loss(mask, prediction, sample_weight=weights))) < 1e-6


def test_an_empty_batch_has_a_finite_loss():
    mask, prediction = random_pair(0)
    assert np.isfinite(float(DiceLoss()(mask[:0], prediction[:0])))


def test_what_is_no_loss_cannot_be_added():
    with pytest.raises(TypeError):
        DiceLoss() + 1
    with pytest.raises(TypeError):
        DiceLoss() * DiceLoss()
    with pytest.raises(ValueError, match="none"):
        LossSum([DiceLoss])
    with pytest.raises(ValueError, match="reduction"):
        DiceLoss() + FocalLoss(reduction=None)
    with pytest.raises(ValueError, match="finite"):
        float("nan") * DiceLoss()
    with pytest.raises(ValueError, match="one weight"):
        LossSum([DiceLoss()], [1, 2])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"smooth": -1}, "smooth"),
        ({"smooth": "1"}, "smooth"),
        ({"average": "dataset"}, "average"),
        ({"class_weights": [1]}, "class_weights"),
        ({"class_weights": [0, 0]}, "class_weights"),
        ({"class_weights": [1, -1]}, "class_weights"),
        ({"class_weights": {0: 1}}, "class_weights"),
        ({"ignore_index": 2.5}, "ignore_index"),
        ({"ignore_index": True}, "ignore_index"),
        ({"reduction": "median"}, "reduction"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, word):
    with pytest.raises(ValueError, match=word):
        DiceLoss(**arguments)


def test_arguments_that_fit_no_loss_are_refused():
    mask, prediction = random_pair(0, 3)
    with pytest.raises(ValueError, match="no error costs"):
        TverskyLoss(0, 0)
    with pytest.raises(ValueError, match="alpha"):
        FocalLoss(alpha=2)
    with pytest.raises(ValueError, match="class_weights"):
        FocalLoss(alpha=0.25)(mask, prediction)
    with pytest.raises(ValueError, match="class_weights has 2 entries"):
        DiceLoss(class_weights=[1, 1])(mask, prediction)


@pytest.mark.parametrize("loss", [DiceLoss, JaccardLoss, TverskyLoss, FocalLoss])
def test_a_prediction_that_is_no_number_has_no_perfect_loss(loss):
    mask = np.ones((1, 4, 4, 1), "float32")
    prediction = np.full((1, 4, 4, 1), np.nan, "float32")
    assert np.isnan(float(loss(from_logits=True)(mask, prediction)))


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean", "mean_with_sample_weight"])
def test_weights_of_images_weigh_a_keras_loss_as_those_of_their_pixels(reduction):
    random = np.random.default_rng(0)
    mask = (random.uniform(size=(2, 8, 8, 1)) > 0.5).astype("float32")
    prediction = random.uniform(0.1, 0.9, mask.shape).astype("float32")
    loss = LossSum([keras.losses.BinaryCrossentropy(reduction=reduction)])
    of_images = np.array([1.0, 3.0], "float32")
    of_pixels = np.broadcast_to(of_images[:, None, None], (2, 8, 8))
    values = [float(loss(mask, prediction, weights)) for weights in (of_images, of_pixels)]
    assert values[0] == pytest.approx(values[1])
    assert float(loss(mask, prediction, np.ones(2, "float32"))) == pytest.approx(
        float(loss(mask, prediction))
    )


def test_weights_of_images_weigh_a_keras_loss_of_whole_images():
    random = np.random.default_rng(0)
    mask = (random.uniform(size=(2, 8, 8, 1)) > 0.5).astype("float32")
    prediction = random.uniform(0.1, 0.9, mask.shape).astype("float32")
    of_images = keras.losses.Dice(axis=(1, 2, 3))
    loss = LossSum([of_images])
    weights = np.array([1.0, 3.0], "float32")
    each = np.asarray(ops.convert_to_numpy(of_images.call(mask, prediction)))
    assert float(loss(mask, prediction, weights)) == pytest.approx(np.mean(each * weights))
    with pytest.raises(ValueError, match="no value for each pixel"):
        loss(mask, prediction, np.ones((2, 8, 8), "float32"))
