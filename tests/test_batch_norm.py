"""`update_batch_norm` gives each running statistic its mean over the data, and changes nothing else."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import shallow_unet

import tl_unet


def numbers(variables):
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def one_norm(channels):
    model = keras.Sequential([keras.Input((channels,)), keras.layers.BatchNormalization()])
    return model, model.layers[0]


@given(
    batches=st.integers(1, 4),
    size=st.integers(2, 5),
    channels=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_statistics_are_the_means_over_the_batches(batches, size, channels, seed):
    data = np.random.default_rng(seed).normal(3, 2, (batches, size, channels)).astype("float32")
    model, norm = one_norm(channels)
    assert tl_unet.update_batch_norm(model, list(data)) is model
    mean, variance = numbers([norm.moving_mean, norm.moving_variance])
    np.testing.assert_allclose(mean, data.mean((0, 1)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(variance, data.var(1).mean(0), rtol=1e-4, atol=1e-4)


def test_statistics_that_are_no_numbers_are_replaced():
    layer = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4, 4, 2)), layer])
    layer.moving_mean.assign([np.nan, np.inf])
    layer.moving_variance.assign([np.inf, 1.0])
    tl_unet.update_batch_norm(model, np.full((3, 4, 4, 2), 5.0, "float32"))
    np.testing.assert_allclose(layer.moving_mean, [5, 5])
    np.testing.assert_allclose(layer.moving_variance, [0, 0], atol=1e-6)


def test_a_model_that_knows_one_batch_predicts_it_as_in_training(image):
    model = shallow_unet(normalization="batch")
    for layer in model.get_layer("encoder").layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    weights = numbers(model.trainable_weights)
    trained = keras.ops.convert_to_numpy(model(image, training=True))
    assert not np.allclose(model.predict(image, verbose=0), trained, atol=1e-3)
    tl_unet.update_batch_norm(model, image, batch_size=len(image))
    np.testing.assert_allclose(model.predict(image, verbose=0), trained, atol=1e-4)
    for before, after in zip(weights, numbers(model.trainable_weights), strict=True):
        np.testing.assert_array_equal(before, after)


def test_frozen_statistics_stand_still_and_momenta_stay(image):
    model = tl_unet.freeze_encoder(shallow_unet(normalization="batch"))
    encoder = model.get_layer("encoder")
    before = numbers(encoder.variables)
    momenta = [layer.momentum for layer in model.layers if hasattr(layer, "momentum")]
    moving = numbers(model.non_trainable_variables)
    tl_unet.update_batch_norm(model, image)
    for old, new in zip(before, numbers(encoder.variables), strict=True):
        np.testing.assert_array_equal(old, new)
    changed = zip(moving, numbers(model.non_trainable_variables), strict=True)
    assert any(not np.array_equal(old, new) for old, new in changed)
    assert momenta == [layer.momentum for layer in model.layers if hasattr(layer, "momentum")]


def test_arrays_batches_pairs_and_datasets_give_the_same(image):
    class Pairs(keras.utils.PyDataset):
        num_batches = len(image)

        def __getitem__(self, index):
            return image[index : index + 1], None

    single = [image[i : i + 1] for i in range(len(image))]
    found = []
    model = shallow_unet(normalization="batch")
    tl_unet.freeze_encoder(model)
    for data in (image, single, [(part, None) for part in single], Pairs()):
        tl_unet.update_batch_norm(model, data, batch_size=1)
        found.append(numbers(model.non_trainable_variables))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_masks_are_not_taken_for_images(image):
    model = shallow_unet(normalization="batch")
    before = numbers(model.weights)
    masks = (image[..., :1] > 127).astype("float32")
    with pytest.raises(TypeError, match=r"of \(images, masks\) give the images alone"):
        tl_unet.update_batch_norm(model, (image, masks))
    with pytest.raises(ValueError, match="takes images of 3 channels"):
        tl_unet.update_batch_norm(model, [image, masks])
    for ours, expected in zip(numbers(model.weights), before, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_only_as_many_batches_are_read_as_are_wanted():
    data = np.random.default_rng(0).normal(3, 2, (4, 5, 2)).astype("float32")
    model, norm = one_norm(2)
    tl_unet.update_batch_norm(model, iter(data), batches=2)
    np.testing.assert_allclose(numbers([norm.moving_mean])[0], data[:2].mean((0, 1)), rtol=1e-4)


@pytest.mark.parametrize("validated", [True, False])
def test_the_callback_updates_before_a_validation_or_at_the_end_of_an_epoch(validated):
    class Loudly(tl_unet.UpdateBatchNorm):
        def _update(self):
            super()._update()
            happened.append(numbers([self.model.layers[0].moving_mean])[0].tolist())

    happened = []
    model, norm = one_norm(2)
    model.compile("sgd", "mse", run_eagerly=True)
    augmented, plain = np.full((4, 2), 9.0, "float32"), np.array([[1.0, 2.0]] * 4, "float32")
    options = {"validation_data": (plain, plain)} if validated else {}
    callback = Loudly(plain)
    model.fit(augmented, augmented, epochs=2, verbose=0, callbacks=[callback], **options)
    assert happened == [[1.0, 2.0]] * 2
    np.testing.assert_array_equal(numbers([norm.moving_mean])[0], [1.0, 2.0])


class Endless(keras.utils.PyDataset):
    """Batch `i` is full of `i`."""

    num_batches = None

    def __getitem__(self, index):
        return np.full((3, 2), index, "float32")


def test_of_endless_data_as_many_batches_are_read_as_are_wanted():
    model, norm = one_norm(2)
    tl_unet.update_batch_norm(model, Endless(), batches=np.int64(3))
    np.testing.assert_allclose(numbers([norm.moving_mean])[0], [1.0, 1.0])


@pytest.mark.parametrize("kind", ["PyDataset", "tf.data"])
def test_endless_data_without_a_number_of_batches_are_refused(kind):
    data = Endless()
    if kind == "tf.data":
        tf = pytest.importorskip("tensorflow")
        data = tf.data.Dataset.from_tensors(np.ones((3, 2), "float32")).repeat()
    model, norm = one_norm(2)
    before = numbers(norm.variables)
    with pytest.raises(ValueError, match="say with `batches`"):
        tl_unet.update_batch_norm(model, data)
    for old, new in zip(before, numbers(norm.variables), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_callback_refuses_data_that_are_used_up_after_one_epoch():
    images = np.ones((3, 2), "float32")
    for data in ((images for _ in range(2)), iter([images]), map(np.asarray, [images])):
        with pytest.raises(TypeError, match="used up after the first"):
            tl_unet.UpdateBatchNorm(data)
    for data in (images, [images], (images,), Endless()):
        assert tl_unet.UpdateBatchNorm(data).data is data


def test_a_failure_leaves_the_statistics_as_they_were():
    model, norm = one_norm(2)
    before = numbers(norm.variables)
    good = np.ones((3, 2), "float32")

    def batches():
        yield good
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        tl_unet.update_batch_norm(model, batches())
    for old, new in zip(before, numbers(norm.variables), strict=True):
        np.testing.assert_array_equal(old, new)
    assert norm.momentum == 0.99


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": 3}, TypeError, "keras.Model"),
        ({"data": []}, ValueError, "no batches"),
        ({"batch_size": 0}, ValueError, "at least 1"),
        ({"batch_size": 1.5}, TypeError, "int"),
        ({"batch_size": True}, TypeError, "int"),
        ({"batches": 0}, ValueError, "`batches` must be at least 1"),
        ({"batches": "all"}, TypeError, "`batches` must be an int"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    usual = {"model": one_norm(2)[0], "data": np.ones((3, 2), "float32")}
    with pytest.raises(error, match=message):
        tl_unet.update_batch_norm(**{**usual, **arguments})


def test_a_model_without_statistics_to_learn_is_refused(image):
    model = tl_unet.freeze_encoder(shallow_unet(normalization="group"))
    with pytest.raises(ValueError, match='normalization="batch"'):
        tl_unet.update_batch_norm(model, image)
