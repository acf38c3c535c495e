"""Frozen means still; unfreezing takes effect at once, in the stages that it names."""

import keras
import numpy as np
import pytest
from tiny import TINY, shallow_unet, tiny_unet

import tl_unet

pytestmark = pytest.mark.filterwarnings("ignore:.*frozen with random weights")


def numbers(variables):
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def changed(before, variables):
    return [
        variable.path
        for old, variable in zip(before, variables, strict=True)
        if not np.array_equal(old, keras.ops.convert_to_numpy(variable))
    ]


@pytest.fixture
def data(image):
    return image, (image[..., :1] > 128).astype("float32")


def fit(model, data, **compile_options):
    """An epoch; eagerly where no stale graph could be seen: tracing takes most of the time."""
    if not model.compiled:
        defaults = {"optimizer": "adam", "loss": "binary_crossentropy", "run_eagerly": True}
        model.compile(**{**defaults, **compile_options})
    model.fit(*data, epochs=1, batch_size=1, verbose=0)


@pytest.mark.parametrize(
    ("encoder", "eagerly"),
    [(TINY, False), pytest.param("efficientnetb0", True, marks=pytest.mark.slow)],
    ids=["tiny", "efficientnetb0"],
)
def test_an_epoch_leaves_every_variable_of_a_frozen_encoder_bit_equal(encoder, eagerly, data):
    model = tiny_unet(encoder=encoder, freeze=True)
    variables = model.get_layer("encoder").variables
    before, decoder = numbers(variables), numbers(model.trainable_weights)
    fit(model, data, run_eagerly=eagerly)
    assert changed(before, variables) == []
    assert changed(decoder, model.trainable_weights)


def test_frozen_dropout_stands_still_in_training_and_an_unfrozen_one_does_not(image):
    encoder = tiny_unet(freeze=True).get_layer("encoder")
    first, second = (
        keras.ops.convert_to_numpy(encoder(image, training=True)[-1]) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    encoder.trainable = True
    first, second = (
        keras.ops.convert_to_numpy(encoder(image, training=True)[-1]) for _ in range(2)
    )
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("stages", [1, 2, 5, None])
def test_unfreezing_frees_the_coarsest_stages_and_no_batch_norm(stages):
    model = tl_unet.unfreeze_encoder(tiny_unet(freeze=True), stages=stages)
    free = {w.path for w in model.get_layer("encoder").trainable_weights}
    first = 6 - (stages or 5)
    assert free == {f"conv{stage}/kernel" for stage in range(first, 6)}


def test_batch_norm_trains_when_asked(data):
    model = tl_unet.unfreeze_encoder(tiny_unet(freeze=True), stages=1, batch_norm=True)
    norms = [model.get_layer("encoder").get_layer(f"norm{i}") for i in (4, 5)]
    before = [numbers(norm.variables) for norm in norms]
    fit(model, data)
    assert changed(before[0], norms[0].variables) == []
    assert len(changed(before[1], norms[1].variables)) == 4


def test_batch_norm_that_trains_follows_with_the_momentum_that_was_asked_for(data):
    moved = []
    for momentum in (0.0, 0.5):
        keras.utils.set_random_seed(0)
        model = tiny_unet(freeze=True)
        tl_unet.unfreeze_encoder(model, stages=1, batch_norm=True, batch_norm_momentum=momentum)
        fit(model, [part[:1] for part in data])  # one step, from a mean of zero
        moved.append(numbers([model.get_layer("encoder").get_layer("norm5").moving_mean])[0])
    assert np.abs(moved[0]).max() > 0
    np.testing.assert_allclose(moved[1], moved[0] / 2, rtol=1e-5, atol=1e-7)


def test_the_momentum_of_frozen_batch_norm_stays_the_backbones():
    model = tiny_unet(freeze=True)
    norms = [model.get_layer("encoder").get_layer(f"norm{i}") for i in (4, 5)]
    usual = norms[0].momentum
    tl_unet.unfreeze_encoder(model, stages=1, batch_norm=True, batch_norm_momentum=0.25)
    assert [norm.momentum for norm in norms] == [usual, 0.25]


@pytest.mark.parametrize(
    ("momentum", "batch_norm", "error", "message"),
    [
        (0.9, False, ValueError, "batch_norm=True"),
        (1.0, True, ValueError, "below 1"),
        (-0.1, True, ValueError, "at least 0"),
        ("0.9", True, TypeError, "number"),
        (True, True, TypeError, "number"),
    ],
)
def test_a_momentum_without_sense_leaves_the_model_frozen(momentum, batch_norm, error, message):
    model = tiny_unet(freeze=True)
    with pytest.raises(error, match=message):
        tl_unet.unfreeze_encoder(model, batch_norm=batch_norm, batch_norm_momentum=momentum)
    assert not model.get_layer("encoder").trainable_weights


def test_batch_norm_stays_put_in_an_unfrozen_encoder(data):
    model = tl_unet.unfreeze_encoder(tiny_unet(freeze=True))
    encoder = model.get_layer("encoder")
    norms = [v for i in range(1, 6) for v in encoder.get_layer(f"norm{i}").variables]
    convolutions = [encoder.get_layer(f"conv{i}").kernel for i in range(1, 6)]
    before = numbers(norms), numbers(convolutions)
    fit(model, data)
    assert changed(before[0], norms) == []
    assert len(changed(before[1], convolutions)) == 5


def test_unfreezing_a_compiled_model_compiles_it_anew_with_the_same_loss_metrics_and_optimizer(
    data,
):
    model = tiny_unet(freeze=True)
    loss = 0.5 * tl_unet.DiceLoss() + keras.losses.BinaryCrossentropy()
    optimizer = keras.optimizers.SGD(0.5, momentum=0.8, clipnorm=2.0)
    metrics = [tl_unet.IoU(name="iou")]
    fit(model, data, loss=loss, metrics=metrics, optimizer=optimizer, run_eagerly=False)
    encoder = model.get_layer("encoder")
    before = numbers([encoder.get_layer("conv5").kernel])
    tl_unet.unfreeze_encoder(model, learning_rate=0.125)
    assert model.optimizer is not optimizer
    config = model.optimizer.get_config()
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert (config["learning_rate"], config["momentum"], config["clipnorm"]) == (0.125, 0.8, 2.0)
    assert model.loss is loss
    fit(model, data)
    assert "iou" in model.get_metrics_result()
    assert changed(before, [encoder.get_layer("conv5").kernel])


def test_unfreezing_keeps_the_learning_rate_unless_told(data):
    model = tiny_unet(freeze=True)
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    fit(model, data, optimizer=keras.optimizers.Adam(schedule))
    tl_unet.unfreeze_encoder(model)
    kept = model.optimizer.get_config()["learning_rate"]
    assert kept["config"]["initial_learning_rate"] == 0.1


def test_a_new_learning_rate_reaches_the_optimizer_under_loss_scaling(data):
    keras.config.set_dtype_policy("mixed_float16")
    model = tiny_unet(freeze=True)
    fit(model, data)
    tl_unet.unfreeze_encoder(model, learning_rate=0.25)
    assert float(model.optimizer.inner_optimizer.learning_rate) == 0.25


def test_a_loss_that_is_a_plain_function_survives_recompiling(data):
    model = tiny_unet(freeze=True)
    fit(model, data, loss=lambda y, p: keras.ops.mean(keras.ops.square(y - p)))
    tl_unet.unfreeze_encoder(model)
    fit(model, data)


def test_a_metric_that_cannot_be_rebuilt_is_an_error_and_changes_nothing(data):
    model = tiny_unet(freeze=True)
    fit(model, data, metrics=[lambda y, p: keras.ops.mean(p)])
    with pytest.raises(ValueError, match="register_keras_serializable"):
        tl_unet.unfreeze_encoder(model)
    assert model.get_layer("encoder").trainable_weights == []


def test_freezing_again_stops_the_encoder(data):
    model = shallow_unet()
    fit(model, data, run_eagerly=False)
    tl_unet.freeze_encoder(model)
    variables = model.get_layer("encoder").variables
    before = numbers(variables)
    fit(model, data)
    assert changed(before, variables) == []


@pytest.mark.parametrize("stages", [0, 6, -1, 1.0, True])
def test_a_number_of_stages_out_of_range_is_an_error(stages):
    with pytest.raises(ValueError, match="from 1 to 5"):
        tl_unet.unfreeze_encoder(tiny_unet(), stages=stages)


def test_a_learning_rate_for_a_model_that_is_not_compiled_is_an_error():
    with pytest.raises(ValueError, match="not compiled"):
        tl_unet.unfreeze_encoder(tiny_unet(), learning_rate=0.1)


@pytest.mark.parametrize("learning_rate", ["0.1", True, lambda: 0.1])
def test_a_learning_rate_that_is_none_is_an_error(learning_rate, data):
    model = tiny_unet(freeze=True)
    fit(model, data)
    with pytest.raises(TypeError, match="`learning_rate` must be a number"):
        tl_unet.unfreeze_encoder(model, learning_rate=learning_rate)
    assert model.get_layer("encoder").trainable_weights == []


def test_a_model_that_does_not_scale_its_loss_still_does_not():
    keras.config.set_dtype_policy("mixed_float16")
    for scale in (False, True):
        model = tiny_unet(freeze=True)
        model.compile("adam", "binary_crossentropy", auto_scale_loss=scale)
        tl_unet.unfreeze_encoder(model)
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == scale


def test_a_layer_that_serves_a_finer_map_only_stays_frozen():
    image = keras.Input((None, None, 3))
    side = keras.layers.Conv2D(2, 1, name="side")(image)
    half = keras.layers.Conv2D(2, 3, strides=2, padding="same", name="half")(image)
    quarter = keras.layers.Conv2D(2, 3, strides=2, padding="same", name="quarter")(half)
    spec = tl_unet.EncoderSpec(
        "branched",
        lambda input_shape, weights=None: keras.Model(image, [side, quarter]),
        taps=[tl_unet.Tap(1, "side"), tl_unet.Tap(2, "half"), tl_unet.Tap(4, "quarter")],
    )
    model = tl_unet.unfreeze_encoder(
        tiny_unet(encoder=spec, decoder_filters=(4, 4), freeze=True), stages=1
    )
    free = [x.name for x in model.get_layer("encoder").layers if x.trainable and x.weights]
    assert free == ["quarter"]


def test_a_model_of_another_library_is_an_error():
    with pytest.raises(ValueError, match="no layer named 'encoder'"):
        tl_unet.freeze_encoder(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))


@pytest.mark.parametrize("name", ["convnexttiny", "resnet50v2"])
def test_stages_of_real_backbones_are_cut_at_their_taps(name):
    model = tl_unet.build_unet(name, weights=None, decoder_filters=(8,) * 5)
    encoder = tl_unet.unfreeze_encoder(model, stages=1).get_layer("encoder")
    free = {w.path for w in encoder.trainable_weights}
    assert free
    finer = keras.Model(encoder.inputs[0], encoder.outputs[-2]).weights
    assert not free & {w.path for w in finer}


def test_unfreezing_a_second_time_reaches_the_stages_that_were_left_frozen():
    model = tl_unet.unfreeze_encoder(tiny_unet(freeze=True), stages=1)
    encoder = model.get_layer("encoder")
    counts = [len(encoder.trainable_weights)]
    for stages in (2, None, 1):
        tl_unet.unfreeze_encoder(model, stages=stages)
        counts.append(len(encoder.trainable_weights))
    assert counts == [1, 2, 5, 1]
