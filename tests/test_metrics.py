"""Laws of the metrics, and their agreement with scikit-learn."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from sklearn.metrics import f1_score, jaccard_score

from tl_unet.losses import FocalLoss
from tl_unet.metrics import DiceCoefficient, IoU

quick = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**32 - 1)
METRICS = [DiceCoefficient, IoU]
metrics = st.sampled_from(METRICS)
averages = st.sampled_from(["dataset", "image", "batch"])


def random_pair(seed, classes=1, batch=4, side=5):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, max(classes, 2), (batch, side, side, 1))
    if classes == 1:
        return mask, rng.random((batch, side, side, 1)).astype("float32")
    return mask, rng.dirichlet(np.ones(classes), (batch, side, side)).astype("float32")


def score(metric, *batches, **weights):
    for mask, prediction in batches:
        metric.update_state(mask, prediction, **weights)
    return float(metric.result())


@quick
@given(seeds, st.floats(0.0, 1.0))
def test_scores_agree_with_scikit_learn(seed, density):
    rng = np.random.default_rng(seed)
    mask, prediction = rng.random((2, 4, 6, 6, 1)) < density
    flat = mask.ravel(), prediction.ravel()
    assert abs(score(IoU(), (mask, prediction)) - jaccard_score(*flat, zero_division=1.0)) < 1e-6
    assert (
        abs(score(DiceCoefficient(), (mask, prediction)) - f1_score(*flat, zero_division=1.0))
        < 1e-6
    )


@quick
@given(seeds, st.integers(2, 5))
def test_scores_of_classes_agree_with_scikit_learn(seed, classes):
    mask, prediction = random_pair(seed, classes)
    flat = mask.ravel(), prediction.argmax(-1).ravel()
    for metric, reference in ((IoU(), jaccard_score), (DiceCoefficient(), f1_score)):
        # Without `labels` scikit-learn, too, averages the classes that occur.
        expected = reference(*flat, average="macro")
        assert abs(score(metric, (mask, prediction)) - expected) < 1e-6
        occurring = np.union1d(*flat)
        each = np.full(classes, np.nan)
        each[occurring] = reference(*flat, average=None, labels=occurring)
        np.testing.assert_allclose(ops.convert_to_numpy(metric.per_class()), each, atol=1e-6)


@quick
@given(seeds)
def test_scores_of_overlapping_classes_agree_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    mask, prediction = rng.integers(0, 2, (4, 5, 5, 3)), rng.random((4, 5, 5, 3))
    flat = mask.reshape(-1, 3), prediction.reshape(-1, 3) > 0.5
    got = score(IoU(multi_label=True), (mask, prediction))
    assert abs(got - jaccard_score(*flat, average="macro")) < 1e-6


@quick
@given(seeds, metrics)
def test_the_average_over_images_is_the_mean_of_scikit_learns_scores(seed, metric):
    rng = np.random.default_rng(seed)
    mask, prediction = rng.random((2, 4, 3, 3, 1)) < rng.random()
    reference = f1_score if metric is DiceCoefficient else jaccard_score
    each = [
        reference(m.ravel(), p.ravel(), zero_division=1.0)
        for m, p in zip(mask, prediction, strict=True)
    ]
    batches = [(mask[:3], prediction[:3]), (mask[3:], prediction[3:])]
    assert abs(score(metric(average="image"), *batches) - np.mean(each)) < 1e-6


@quick
@given(seeds, metrics, averages, st.sampled_from([None, 0.3, 0.5]))
def test_scores_lie_between_0_and_1(seed, metric, average, threshold):
    assert 0 <= score(metric(threshold, average), random_pair(seed)) <= 1


@quick
@given(seeds, metrics, averages, st.sampled_from([None, 0.5]), st.sampled_from([1, 3]))
def test_a_perfect_prediction_scores_1(seed, metric, average, threshold, classes):
    mask, _ = random_pair(seed, classes)
    perfect = mask if classes == 1 else np.eye(classes)[mask[..., 0]]
    assert abs(score(metric(threshold, average), (mask, perfect)) - 1) < 1e-6


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("average", ["dataset", "image", "batch"])
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_an_empty_mask_predicted_empty_scores_empty(metric, average, threshold):
    empty = np.zeros((2, 4, 4, 1))
    assert score(metric(threshold, average), (empty, empty)) == 1.0
    assert score(metric(threshold, average, empty=0.25), (empty, empty)) == 0.25


@quick
@given(seeds, metrics, averages)
def test_a_false_positive_on_an_empty_mask_scores_0(seed, metric, average):
    prediction = np.zeros((1, 5, 5, 1))
    prediction.flat[seed % 25] = 1
    assert score(metric(average=average), (np.zeros_like(prediction), prediction)) == 0


@quick
@given(seeds, metrics, averages)
def test_mask_and_hard_prediction_may_be_swapped(seed, metric, average):
    mask, prediction = random_pair(seed)
    hard = prediction > 0.5
    one, other = (
        score(metric(average=average), (mask, hard)),
        score(metric(average=average), (hard, mask)),
    )
    assert abs(one - other) < 1e-6


@quick
@given(seeds, st.sampled_from([None, 0.5]))
def test_iou_follows_from_dice(seed, threshold):
    pair = random_pair(seed)
    dice = score(DiceCoefficient(threshold), pair)
    assert abs(score(IoU(threshold), pair) - dice / (2 - dice)) < 1e-6


@quick
@given(
    seeds,
    metrics,
    st.sampled_from(["dataset", "image"]),
    st.sampled_from([None, 0.5]),
    st.sampled_from([1, 3]),
)
def test_one_update_of_8_images_is_8_updates_of_1(seed, metric, average, threshold, classes):
    mask, prediction = random_pair(seed, classes, batch=8)
    single = [(mask[i : i + 1], prediction[i : i + 1]) for i in range(8)]
    together = score(metric(threshold, average), (mask, prediction))
    assert abs(together - score(metric(threshold, average), *single)) < 1e-6


def test_the_average_over_batches_depends_on_the_batches():
    mask, prediction = random_pair(0, batch=8)
    mask[:4] = 0
    halves = [(mask[:4], prediction[:4]), (mask[4:], prediction[4:])]
    each = [score(DiceCoefficient(), half) for half in halves]
    metric = DiceCoefficient(average="batch")
    assert abs(score(metric, *halves) - np.mean(each)) < 1e-6
    assert abs(score(DiceCoefficient(), *halves) - np.mean(each)) > 1e-3


@quick
@given(seeds)
def test_the_papers_coefficients_are_soft_and_averaged_over_batches(seed):
    batches = [random_pair(seed), random_pair(seed + 1)]
    options = {"threshold": None, "average": "batch", "smooth": 1.0}
    overlap = np.array([(m * p).sum() for m, p in batches])
    area = np.array([m.sum() + p.sum() for m, p in batches])
    dice = np.mean((2 * overlap + 1) / (area + 1))
    iou = np.mean((overlap + 1) / (area - overlap + 1))
    assert abs(score(DiceCoefficient(**options), *batches) - dice) < 1e-6
    assert abs(score(IoU(**options), *batches) - iou) < 1e-6


@quick
@given(seeds, metrics, averages)
def test_the_order_of_pixels_means_nothing(seed, metric, average):
    mask, prediction = random_pair(seed)
    order = np.random.default_rng(seed).permutation(25)
    shuffled = [x.reshape(4, 25, 1)[:, order].reshape(4, 5, 5, 1) for x in (mask, prediction)]
    for threshold in (0.5, None):
        one = score(metric(threshold, average), (mask, prediction))
        assert abs(one - score(metric(threshold, average), shuffled)) < 1e-6


@quick
@given(seeds, metrics, st.sampled_from([None, 0.3, 0.5]))
def test_logits_score_what_their_probabilities_score(seed, metric, threshold):
    mask, _ = random_pair(seed)
    logits = np.random.default_rng(seed).normal(0, 3, mask.shape).astype("float32")
    expected = score(metric(threshold), (mask, ops.convert_to_numpy(ops.sigmoid(logits))))
    assert abs(score(metric(threshold, from_logits=True), (mask, logits)) - expected) < 1e-6


@quick
@given(seeds, metrics, averages, st.sampled_from([1, 3]))
def test_ignored_pixels_count_for_nothing_whatever_is_predicted(seed, metric, average, classes):
    mask, prediction = random_pair(seed, classes)
    ignored = np.random.default_rng(seed).random(mask.shape) < 0.4
    ignored[0] = True
    mask = np.where(ignored, 255, mask)
    other = np.where(ignored, random_pair(seed + 1, classes)[1], prediction)
    options = {"average": average, "ignore_index": 255}
    got = score(metric(**options), (mask, prediction))
    assert abs(got - score(metric(**options), (mask, other))) < 1e-6
    # An image that is ignored as a whole has no score of its own either.
    assert abs(got - score(metric(**options), (mask[1:], prediction[1:]))) < 1e-6


@pytest.mark.parametrize("metric", METRICS)
def test_counts_stay_exact_over_hundreds_of_millions_of_pixels(metric):
    # The paper's data set is 3,686 x 65,536 pixels; float32 alone stops counting ones at 16.8 million.
    metric = metric()
    big, weights = np.ones((1, 64, 64, 1), "bool"), np.full((1, 64, 64), 4096.0)
    metric.update_state(big, big, sample_weight=weights)
    metric.update_state(big, ~big, sample_weight=weights)
    tiny = np.ones((1, 3, 5, 1), "bool")
    for _ in range(200):
        metric.update_state(tiny, tiny)
    positives, missed = 2**24 + 3000, 2**24
    expected = {
        "dice": 2 * positives / (2 * positives + missed),
        "iou": positives / (positives + missed),
    }[metric.name]
    # Without the carry the score would be off by 4e-5.
    assert abs(float(metric.result()) - expected) < 2e-7


@quick
@given(st.lists(st.integers(0, 10), min_size=1, max_size=4), seeds)
def test_sums_of_many_sizes_equal_those_of_int64(exponents, seed):
    rng = np.random.default_rng(seed)
    metric, expected = IoU(), np.zeros(2, "int64")
    for exponent in exponents:
        mask = np.ones((2, 1, 2**exponent * 64, 1), "bool")
        prediction = rng.random(mask.shape) < 0.7
        metric.update_state(mask, prediction)
        expected += [prediction.sum(), mask.sum()]
    assert abs(float(metric.result()) - expected[0] / expected[1]) < 2e-7


@pytest.mark.parametrize("metric", METRICS)
def test_scores_of_sixteen_bit_megapixels_are_accurate(metric):
    mask = np.ones((1, 1024, 1024, 1), "bool")
    prediction = ops.full(mask.shape, 0.75, dtype="float16")
    expected = 1.5 / 1.75 if metric is DiceCoefficient else 0.75
    assert abs(score(metric(threshold=None), (mask, prediction)) - expected) < 1e-5


def test_target_classes_leave_the_background_out():
    mask, prediction = random_pair(0, classes=3)
    metric = IoU(target_class_ids=[2, 1])
    got = score(metric, (mask, prediction))
    assert abs(got - float(np.mean(ops.convert_to_numpy(metric.per_class())[1:]))) < 1e-6
    assert abs(got - score(IoU(), (mask, prediction))) > 1e-4


@pytest.mark.parametrize("average", ["dataset", "image", "batch"])
def test_classes_that_do_not_occur_are_left_out(average):
    mask = np.array([[[[0], [1]]], [[[0], [0]]]])
    prediction = np.eye(3)[np.array([[[0, 1]], [[0, 1]]])]
    metric = IoU(average=average)
    got = score(metric, (mask, prediction))
    each = ops.convert_to_numpy(metric.per_class())
    assert np.isnan(each[2])
    if average == "image":  # Image 1 scores (1 + 1) / 2, image 2 (1/2 + 0) / 2.
        assert abs(got - 0.625) < 1e-6
        np.testing.assert_allclose(each[:2], [0.75, 0.5], atol=1e-6)
    else:
        np.testing.assert_allclose(each[:2], [2 / 3, 1 / 2], atol=1e-6)
        assert abs(got - np.mean([2 / 3, 1 / 2])) < 1e-6
    only_absent = IoU(average=average, target_class_ids=[2], empty=0.75)
    assert score(only_absent, (mask, prediction)) == 0.75


@quick
@given(seeds, metrics)
def test_weights_of_images_weigh_their_scores_or_their_pixels(seed, metric):
    mask, prediction = random_pair(seed)
    weights = np.array([0.0, 1.0, 2.0, 1.0])
    each = [score(metric(), (mask[i : i + 1], prediction[i : i + 1])) for i in range(4)]
    image = score(metric(average="image"), (mask, prediction), sample_weight=weights)
    assert abs(image - np.average(each, weights=weights)) < 1e-6
    repeated = np.repeat(np.arange(4), weights.astype(int))
    for average in ("dataset", "batch"):
        got = score(metric(average=average), (mask, prediction), sample_weight=weights)
        assert abs(got - score(metric(), (mask[repeated], prediction[repeated]))) < 1e-6


@quick
@given(seeds, metrics, averages)
def test_weights_of_pixels_of_0_are_ignored_pixels(seed, metric, average):
    mask, prediction = random_pair(seed)
    kept = np.random.default_rng(seed).random(mask.shape) < 0.6
    got = score(metric(average=average), (mask, prediction), sample_weight=kept)
    ignoring = metric(average=average, ignore_index=255)
    assert abs(got - score(ignoring, (np.where(kept, mask, 255), prediction))) < 1e-6


@pytest.mark.parametrize("metric", METRICS)
def test_the_threshold_decides(metric):
    mask, prediction = np.ones((1, 2, 2, 1)), np.full((1, 2, 2, 1), 0.6)
    assert [score(metric(t), (mask, prediction)) for t in (0.5, 0.6, 0.7)][::2] == [1.0, 0.0]
    # A dead ReLU tail predicts exactly 0.5 (see the paper's M-Unet): that is no foreground.
    assert score(metric(), (mask, np.full_like(mask, 0.5))) == 0.0


@pytest.mark.parametrize("metric", METRICS)
def test_reset_forgets(metric):
    metric = metric()
    assert float(metric.result()) == 0.0
    with pytest.raises(ValueError, match="no batch yet"):
        metric.per_class()
    first, second = random_pair(0), random_pair(1)
    score(metric, first)
    metric.reset_state()
    assert float(metric.result()) == 0.0
    assert score(metric, second) == score(type(metric)(), second)


def test_another_number_of_classes_is_refused():
    metric = IoU()
    metric.update_state(*random_pair(0))
    with pytest.raises(ValueError, match="number of classes"):
        metric.update_state(*random_pair(0, 3))
    with pytest.raises(ValueError, match="0 to 2"):
        IoU(target_class_ids=[3]).update_state(*random_pair(0, 3))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"threshold": 2}, "threshold"),
        ({"average": "macro"}, "average"),
        ({"empty": None}, "empty"),
        ({"smooth": -1}, "smooth"),
        ({"ignore_index": "255"}, "ignore_index"),
        ({"target_class_ids": []}, "target_class_ids"),
        ({"target_class_ids": [-1]}, "target_class_ids"),
        ({"target_class_ids": 1}, "target_class_ids"),
        ({"class_names": "cat"}, "class_names"),
        ({"class_names": ["cat", "cat"]}, "different"),
        ({"class_names": ["cat", 1]}, "class_names"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, word):
    with pytest.raises(ValueError, match=word):
        IoU(**arguments)


@pytest.mark.parametrize("mode", [{"jit_compile": False}, {}, {"run_eagerly": True}])
def test_evaluate_scores_what_update_state_scores(mode):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Softmax()(inputs))
    options = [{}, {"average": "image"}, {"threshold": None, "smooth": 1.0}]
    scores = [IoU(name=f"iou_{i}", **option) for i, option in enumerate(options)]
    weighted = IoU(name="weighted")
    model.compile(loss=FocalLoss(), metrics=scores, weighted_metrics=[weighted], **mode)
    mask, _ = random_pair(0, classes=3, batch=5)
    logits = np.random.default_rng(0).normal(0, 1, (5, 5, 5, 3)).astype("float32")
    weights = np.arange(5.0)
    for _ in range(2):  # The second time it must start anew.
        results = model.evaluate(
            logits, mask, sample_weight=weights, batch_size=2, verbose=0, return_dict=True
        )
    for i, option in enumerate(options):
        expected = score(IoU(from_logits=True, **option), (mask, logits))
        assert abs(results[f"iou_{i}"] - expected) < 1e-6
    expected = score(IoU(from_logits=True), (mask, logits), sample_weight=weights)
    assert abs(results["weighted"] - expected) < 1e-6


@pytest.mark.parametrize("floatx", ["float16", "bfloat16"])
def test_sums_are_float32_whatever_floatx_is(floatx):
    metric = IoU()
    keras.config.set_floatx(floatx)
    try:
        right = np.ones((1, 64, 64, 1), "float32")
        for _ in range(40):
            metric.update_state(right, right)
        wrong = right.copy()
        wrong[0, 0, 0] = 0
        metric.update_state(wrong, right)
        score = float(metric.result())
    finally:
        keras.config.set_floatx("float32")
    pixels = 41 * 64 * 64
    assert score == pytest.approx((pixels - 1) / pixels, abs=1e-7)
