"""The counting function under every loss and metric, and its checks of masks and predictions."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from tl_unet.counts import Counts, confusion_counts, tversky_index
from tl_unet.losses import DiceLoss
from tl_unet.metrics import IoU

quick = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def numbers(counts):
    return [ops.convert_to_numpy(count) for count in counts]


def random_pair(seed, batch=2, side=5, classes=1):
    """A random mask of class numbers (or 0/1) and probabilities, away from ties."""
    rng = np.random.default_rng(seed)
    if classes == 1:
        return rng.integers(0, 2, (batch, side, side, 1)), rng.random((batch, side, side, 1))
    probabilities = rng.dirichlet(np.ones(classes), (batch, side, side))
    return rng.integers(0, classes, (batch, side, side, 1)), probabilities


@quick
@given(seeds, st.sampled_from([None, 0.2, 0.5]))
def test_binary_counts_are_what_numpy_counts(seed, threshold):
    mask, probability = random_pair(seed)
    p = probability if threshold is None else probability > threshold
    expected = [mask * p, (1 - mask) * p, mask * (1 - p), (1 - mask) * (1 - p)]
    got = numbers(confusion_counts(mask, probability, threshold=threshold))
    for count, values in zip(got, expected, strict=True):
        np.testing.assert_allclose(count, values.sum(axis=(1, 2)), atol=1e-5)


@quick
@given(seeds, st.sampled_from([None, 0.5]), st.integers(2, 4))
def test_counts_of_classes_are_those_of_each_class_alone(seed, threshold, classes):
    mask, probability = random_pair(seed, classes=classes)
    got = numbers(confusion_counts(mask, probability, threshold=threshold))
    hard = np.eye(classes)[probability.argmax(-1)]
    for index in range(classes):
        one = probability if threshold is None else hard
        alone = numbers(
            confusion_counts(mask == index, one[..., index : index + 1], threshold=None)
        )
        for count, expected in zip(got, alone, strict=True):
            np.testing.assert_allclose(count[:, index], expected[:, 0], atol=1e-5)


@quick
@given(seeds)
def test_the_ways_to_write_a_mask_count_the_same(seed):
    mask, probability = random_pair(seed, classes=3)
    ways = [
        mask,
        mask[..., 0],
        mask.astype("uint8"),
        mask.astype("float32"),
        np.eye(3)[mask[..., 0]],
    ]
    results = [numbers(confusion_counts(way, probability, threshold=None)) for way in ways]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_boolean_masks_count_as_zeros_and_ones():
    mask, probability = random_pair(0)
    np.testing.assert_array_equal(
        numbers(confusion_counts(mask.astype(bool), probability)),
        numbers(confusion_counts(mask, probability)),
    )


@quick
@given(seeds, st.integers(1, 3), st.booleans())
def test_logits_count_like_their_probabilities(seed, classes, multi_label):
    mask, _ = random_pair(seed, classes=classes)
    logits = np.random.default_rng(seed).normal(0, 3, (2, 5, 5, classes)).astype("float32")
    sigmoid = classes == 1 or multi_label
    probability = ops.sigmoid(logits) if sigmoid else ops.softmax(logits, axis=-1)
    for threshold in (None, 0.5):
        options = {"threshold": threshold, "multi_label": multi_label}
        from_logits = confusion_counts(mask, logits, from_logits=True, **options)
        np.testing.assert_allclose(
            numbers(from_logits), numbers(confusion_counts(mask, probability, **options)), atol=1e-5
        )


@quick
@given(seeds, st.sampled_from([1, 3]))
def test_ignored_pixels_count_for_nothing_whatever_is_predicted(seed, classes):
    mask, probability = random_pair(seed, classes=classes)
    ignored = np.random.default_rng(seed).random(mask.shape) < 0.3
    mask = np.where(ignored, 255, mask)
    broken = np.where(ignored, np.nan, probability)
    counts = numbers(confusion_counts(mask, broken, ignore_index=255, threshold=None))
    same = confusion_counts(
        np.where(ignored, 0, mask), probability, threshold=None, pixel_weight=1.0 - ignored
    )
    np.testing.assert_allclose(counts, numbers(same), atol=1e-5)
    np.testing.assert_allclose(
        np.sum(counts, axis=0)[:, 0], (~ignored).sum(axis=(1, 2, 3)), atol=1e-4
    )


def test_a_pixel_ignored_in_one_channel_is_ignored_there_only_if_classes_overlap():
    mask = np.array([[[[1, 0], [255, 255], [255, 1]]]])
    prediction = np.full((1, 1, 3, 2), 0.5)
    together = numbers(confusion_counts(mask, prediction, threshold=None, ignore_index=255))
    apart = confusion_counts(mask, prediction, threshold=None, ignore_index=255, multi_label=True)
    np.testing.assert_array_equal(np.sum(together, axis=0), [[1, 1]])
    np.testing.assert_array_equal(np.sum(numbers(apart), axis=0), [[1, 2]])


def test_overlapping_classes_are_thresholded_each_for_itself():
    mask = np.array([[[[1, 1], [0, 0]]]])
    prediction = np.array([[[[0.9, 0.8], [0.2, 0.1]]]])
    counts = confusion_counts(mask, prediction, multi_label=True)
    np.testing.assert_array_equal(numbers(counts)[0], [[1, 1]])
    np.testing.assert_array_equal(numbers(counts)[2], [[0, 0]])


def test_counts_of_a_batch_are_the_sums_of_its_images():
    mask, probability = random_pair(3, batch=4)
    images = numbers(confusion_counts(mask, probability, per="image"))
    batch = numbers(confusion_counts(mask, probability, per="batch"))
    np.testing.assert_array_equal(batch, np.sum(images, axis=1, keepdims=True))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_predictions_of_a_megapixel_are_counted_accurately(dtype):
    mask = np.ones((1, 1024, 1024, 1), "bool")
    prediction = ops.full((1, 1024, 1024, 1), 0.75, dtype=dtype)
    counts = numbers(confusion_counts(mask, prediction, threshold=None))
    np.testing.assert_allclose(np.ravel(counts), [0.75 * 2**20, 0, 0.25 * 2**20, 0], rtol=1e-5)


def test_tversky_index_of_nothing_is_what_it_is_told():
    nothing = Counts(*[ops.zeros((1, 1))] * 4)
    assert float(tversky_index(nothing, 1.0, 1.0, empty=0.25)[0, 0]) == 0.25
    assert float(tversky_index(nothing, 1.0, 1.0, smooth=1.0, empty=0.25)[0, 0]) == 1.0


ZEROS, HALVES = np.zeros((2, 4, 4, 1)), np.full((2, 4, 4, 1), 0.5)
THIRDS = np.full((2, 4, 4, 3), 1 / 3)
BAD_PAIRS = {
    "mask of 0..255": (ZEROS + 255, HALVES, "mask > 127"),
    "mask above 1": (HALVES * 3, HALVES, "only 0 and 1"),
    "mask below 0": (-HALVES, HALVES, "only 0 and 1"),
    "mask with NaN": (ZEROS * np.nan, HALVES, "only 0 and 1"),
    "class number too high": (ZEROS + 3, THIRDS, "0 to 2"),
    "class number negative": (ZEROS - 1, THIRDS, "0 to 2"),
    "class number with a fraction": (HALVES, THIRDS, "0 to 2"),
    "several classes at once": (np.ones((2, 4, 4, 3)), THIRDS, "multi_label=True"),
    "soft channels that do not add up": (THIRDS * 0.9, THIRDS, "multi_label=True"),
    "channels of 0 and 255": (np.eye(3)[[[[0, 1]]]] * 255, THIRDS[:1, :1, :2], "only 0 and 1"),
    "logits given as probabilities": (ZEROS, HALVES + 4, "from_logits=True"),
    "negative probabilities": (ZEROS, HALVES - 4, "from_logits=True"),
    "sigmoids given as softmax": (ZEROS, THIRDS * 2, "multi_label=True"),
    "prediction without channels": (ZEROS, HALVES[..., 0], r"y_pred\[\.\.\., None\]"),
    "mask of rank 2": (ZEROS[0, ..., 0], HALVES, r"y_true\[None\]"),
    "mask of rank 5": (ZEROS[None], HALVES, r"y_true\[None\]"),
    "other batch size": (ZEROS[:1], HALVES, "batch size is 1"),
    "other height": (ZEROS[:, :3], HALVES, "height is 3"),
    "other width": (ZEROS[:, :, :3], HALVES, "width is 3"),
    "other channels": (np.zeros((2, 4, 4, 2)), THIRDS, "classes=2"),
    "colour mask": (np.zeros((2, 4, 4, 3)), HALVES, "one channel"),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_bad_input_is_refused_with_the_remedy_by_losses_and_metrics(case):
    mask, prediction, remedy = BAD_PAIRS[case]
    with pytest.raises(ValueError, match=remedy):
        DiceLoss()(mask, prediction)
    with pytest.raises(ValueError, match=remedy):
        IoU().update_state(mask, prediction)


@pytest.mark.parametrize("ignored", [False, True])
def test_soft_masks_of_mixed_images_are_counted_in_every_way_of_calling(ignored, monkeypatch):
    rng = np.random.default_rng(0)
    cases = [
        (rng.random((2, 4, 4, 1)), HALVES, {}),
        (rng.dirichlet(np.ones(3), (2, 4, 4)).astype("float16"), THIRDS, {}),
        (rng.random((2, 4, 4, 3)), THIRDS, {"multi_label": True}),
    ]
    for mask, prediction, options in cases:
        if ignored:
            mask[0, 0, 0] = 255
            options["ignore_index"] = 255
        counts = numbers(confusion_counts(mask, prediction, threshold=None, **options))
        kept = np.where(mask == 255, 0, mask).astype("float32")
        total = counts[0] + counts[2]  # what the mask holds
        np.testing.assert_allclose(total, kept.sum(axis=(1, 2)), rtol=1e-4)
        with monkeypatch.context() as patch:
            patch.setattr("tl_unet.input_checks.values_of", lambda tensor: None)  # as in a graph
            traced = numbers(confusion_counts(mask, prediction, threshold=None, **options))
        np.testing.assert_array_equal(traced, counts)


def test_ignoring_zeros_or_ones_of_a_binary_mask_is_refused():
    with pytest.raises(ValueError, match="255"):
        confusion_counts(ZEROS, HALVES, ignore_index=0)


def test_a_class_may_be_ignored_by_its_number():
    mask = np.array([[[[0], [1], [2]]]])
    counts = numbers(
        confusion_counts(mask, np.full((1, 1, 3, 3), 1 / 3), threshold=None, ignore_index=0)
    )
    np.testing.assert_allclose(np.sum(counts, axis=0), [[2, 2, 2]], rtol=1e-6)


def test_a_threshold_for_exclusive_classes_is_refused():
    with pytest.raises(ValueError, match="likeliest"):
        confusion_counts(ZEROS, THIRDS, threshold=0.3)


def test_a_prediction_that_is_slightly_off_by_rounding_is_accepted():
    confusion_counts(ZEROS, HALVES * 2 + 1e-3)


@pytest.fixture
def compiled_model():
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, keras.layers.Conv2D(1, 1, activation="sigmoid")(inputs))
    model.compile(loss=DiceLoss(), metrics=[IoU()])
    return model


def test_values_are_not_checked_in_a_compiled_fit(compiled_model):
    if keras.backend.backend() == "torch":
        pytest.skip("the torch backend runs eagerly, so it checks values in fit as well")
    compiled_model.fit(ZEROS, ZEROS + 255, verbose=0)


def test_shapes_are_checked_in_a_compiled_fit(compiled_model):
    with pytest.raises(ValueError, match="height is 3"):
        compiled_model.fit(ZEROS, ZEROS[:, :3], verbose=0)


def test_masks_of_unknown_channels_train_with_one_class_and_name_the_remedy_with_more():
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("other backends know every shape")
    image = np.zeros((2, 8, 8, 3), "float32")

    def fit(classes, shape):
        signature = tf.TensorSpec((None, 8, 8, 3)), tf.TensorSpec(shape)
        mask = np.zeros((2, 8, 8, 1), "float32")
        data = tf.data.Dataset.from_generator(lambda: [(image, mask)], output_signature=signature)
        head = keras.layers.Conv2D(classes, 1, activation="sigmoid" if classes == 1 else "softmax")
        model = keras.Sequential([keras.Input((8, 8, 3)), head])
        model.compile("sgd", DiceLoss(), metrics=[IoU()])
        return model.fit(data, verbose=0).history["loss"][0]

    assert np.isfinite(fit(1, (None, 8, 8, None)))
    with pytest.raises(ValueError, match="set_shape"):
        fit(3, (None, 8, 8, None))
    with pytest.raises(ValueError, match="even its rank"):
        fit(1, None)
