"""`build_unet`: the paper's models, every option, any size, saving."""

import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from tiny import TINY, shallow_unet, tiny_unet

import tl_unet

NO_WEIGHTS = {"weights": None, "freeze": False}


def trainable_count(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


PAPER = {
    "unet": (dict(encoder="unet", freeze=False), 31_031_745, 31_031_745),
    "vunet": (dict(encoder="vgg16"), 25_854_657, 11_139_969),
    "vunet-finetuned": (dict(encoder="vgg16", freeze=False), 25_854_657, 25_854_657),
    "dunet": (
        dict(encoder="densenet121", decoder_filters=(512, 256, 128, 64, 3), input_skip=True),
        19_227_008,
        12_189_504,
    ),
    "runet": (
        dict(encoder="resnet50", decoder_filters=(1024, 512, 256, 64, 3), input_skip=True),
        71_939_392,
        48_351_680,
    ),
    "munet": (
        dict(encoder="mobilenetv2", decoder_filters=(576, 196, 144, 96, 3), input_skip=True),
        16_628_156,
        14_370_172,
    ),
}


@pytest.mark.filterwarnings("ignore:.*frozen with random weights")
@pytest.mark.parametrize("model", PAPER)
def test_parameter_counts_are_the_papers(model):
    arguments, parameters, trainable = PAPER[model]
    unet = tl_unet.build_unet(**arguments, weights=None, preprocessing="rescale")
    assert unet.count_params() == parameters
    assert trainable_count(unet) == trainable


@pytest.mark.parametrize("upsampling", ["transpose", "nearest", "bilinear"])
@hypothesis.settings(max_examples=8)
@hypothesis.given(data=st.data())
def test_mask_has_the_size_of_any_image(upsampling, data):
    model = _one_model_per_upsampling(upsampling)
    height, width = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150))
    mask = keras.ops.convert_to_numpy(model(np.full((2, height, width, 3), 200.0, "float32")))
    assert mask.shape == (2, height, width, 1)
    assert np.isfinite(mask).all()


def _one_model_per_upsampling(upsampling, models={}):  # noqa: B006  (a cache over Hypothesis' examples)
    if upsampling not in models:
        models[upsampling] = tiny_unet(upsampling=upsampling)
    return models[upsampling]


@pytest.mark.parametrize("upsampling", ["transpose", "nearest", "bilinear"])
def test_predict_and_fit_work_with_unknown_sides_that_nothing_divides(upsampling, image):
    model = shallow_unet(upsampling=upsampling)
    model.compile("adam", "binary_crossentropy")
    model.fit(image, np.zeros((*image.shape[:3], 1)), verbose=0)
    assert model.predict(image, verbose=0).shape == (2, 45, 70, 1)


@pytest.mark.parametrize("sides", [(64, 64), (45, 70), (32, None), (None, 100)])
def test_known_sides_give_the_same_masks_as_unknown_ones(sides):
    shape = [side or 60 for side in sides]
    image = np.random.default_rng(1).uniform(0, 255, (1, *shape, 3)).astype("float32")
    free, fixed = tiny_unet(), tiny_unet(input_shape=(*sides, 3))
    fixed.set_weights(free.get_weights())
    assert fixed.output_shape == (None, *sides, 1)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(fixed(image)), keras.ops.convert_to_numpy(free(image)), atol=1e-5
    )


def test_padding_and_cropping_do_not_touch_an_image_that_needs_none():
    model = tiny_unet(input_shape=(64, 96, 3))
    assert not {"pad", "crop"} & {layer.name for layer in model.layers}
    others = tiny_unet(input_shape=(45, 70, 3)).layers
    assert {"pad", "crop"} <= {layer.name for layer in others}


def test_uint8_and_float_images_give_the_same_mask(image):
    model = tiny_unet()
    image = image.astype("uint8")
    as_float = model.predict(image.astype("float32"), verbose=0)
    np.testing.assert_array_equal(model.predict(image, verbose=0), as_float)


@pytest.mark.parametrize(
    ("classes", "activation", "check"),
    [
        (1, "auto", lambda y: ((y >= 0) & (y <= 1)).all()),
        (3, "auto", lambda y: np.allclose(y.sum(-1), 1, atol=1e-5)),
        (3, "sigmoid", lambda y: ((y >= 0) & (y <= 1)).all() and not np.allclose(y.sum(-1), 1)),
        (2, None, lambda y: (y < 0).any() and y.dtype == np.float32),
    ],
)
def test_classes_and_activation(classes, activation, check, image):
    mask = keras.ops.convert_to_numpy(tiny_unet(classes=classes, activation=activation)(image))
    assert mask.shape[-1] == classes
    assert check(mask)


def test_logits_are_the_probabilities_before_the_activation(image):
    model, logits = tiny_unet(), tiny_unet(activation=None)
    logits.set_weights(model.get_weights())
    probabilities = keras.ops.sigmoid(logits(image))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(probabilities),
        keras.ops.convert_to_numpy(model(image)),
        atol=1e-6,
    )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_head_is_float32_under_mixed_precision(policy, image):
    keras.config.set_dtype_policy(policy)
    model = tiny_unet()
    mask = model(image)
    assert keras.backend.standardize_dtype(mask.dtype) == "float32"
    assert model.get_layer("decoder_stage1_conv1").compute_dtype == policy.removeprefix("mixed_")
    assert model.get_layer("preprocessing").compute_dtype == "float32"


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("side", [32, None])
def test_grey_values_reach_the_encoder_unrounded_under_mixed_precision(policy, side):
    grey = np.linspace(0, 255, 2 * 32 * 32, dtype="float32").reshape(2, 32, 32, 1)

    def seen():
        model = tl_unet.build_unet(
            "vgg16", weights=None, freeze=False, encoder_depth=1, input_shape=(side, side, 1)
        )
        assert model.get_layer("encoder").input_shape[-1] == 3
        before = keras.Model(model.input, model.get_layer("preprocessing").output)
        return keras.ops.convert_to_numpy(before(grey))

    expected = seen()
    keras.config.set_dtype_policy(policy)
    np.testing.assert_array_equal(seen(), expected)


@pytest.mark.parametrize("whole", [np.int64, np.int32, np.uint8])
def test_whole_numbers_of_numpy_are_ints(whole, tmp_path):
    model = tiny_unet(
        classes=whole(3),
        decoder_filters=np.array([8, 8, 8, 8, 4], whole),
        input_shape=(whole(64), None, whole(3)),
    )
    assert model.output_shape == (None, 64, None, 3)
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").input_shape == (None, 64, None, 3)


@pytest.mark.parametrize(
    ("normalization", "layer"),
    [
        ("batch", keras.layers.BatchNormalization),
        ("group", keras.layers.GroupNormalization),
        ("layer", keras.layers.LayerNormalization),
    ],
)
def test_normalization_follows_every_decoder_convolution(normalization, layer, image):
    model = tiny_unet(normalization=normalization, decoder_filters=(16, 12, 8, 8, 3))
    assert sum(isinstance(inner, layer) for inner in model.layers) == 10
    assert not model.get_layer("decoder_stage1_conv1").use_bias
    assert np.isfinite(keras.ops.convert_to_numpy(model(image))).all()


def test_feature_maps_are_normalized_where_the_encoder_does_not_do_it(image):
    def normalized(encoder, **options):
        model = tl_unet.build_unet(encoder, freeze=False, weights=None, encoder_depth=3, **options)
        assert np.isfinite(keras.ops.convert_to_numpy(model(image))).all()
        names = [layer.name for layer in model.layers]
        return sorted(name for name in names if name.startswith("feature"))

    maps = ["feature1_norm", "feature2_norm", "feature4_norm", "feature8_norm"]
    assert normalized("vgg16", normalization="batch") == maps
    assert normalized("vgg16") == []
    assert normalized("vgg16", normalization="batch", normalize_features=False) == []
    assert normalized(TINY, normalization="batch") == []
    assert normalized(TINY, normalization="group", normalize_features=True) == maps[1:]


def test_normalized_features_keep_a_large_map_from_drowning_the_decoders():
    loud = keras.Input((32, 32, 3))
    fine = keras.layers.Conv2D(4, 1, name="fine")(keras.layers.Rescaling(1000.0)(loud))
    coarse = keras.layers.Conv2D(4, 2, strides=2, name="coarse")(loud)
    encoder = keras.Model(loud, [fine, coarse])
    images = np.random.default_rng(0).uniform(0, 1, (2, 32, 32, 3)).astype("float32")

    def share(normalize_features):
        """How much of what enters the first decoder convolution comes from the coarse map."""
        keras.utils.set_random_seed(0)
        model = tl_unet.build_unet(
            encoder,
            freeze=False,
            weights=None,
            preprocessing=None,
            decoder_filters=[4],
            normalization="batch",
            normalize_features=normalize_features,
        )
        joined = model.get_layer("decoder_stage1_concatenate").output
        x = keras.Model(model.inputs, joined)(images, training=True)
        skip, below = np.split(np.abs(keras.ops.convert_to_numpy(x)), [4], axis=-1)
        return below.mean() / skip.mean()

    assert share(False) < 0.02 < 0.1 < share(True)


def test_dropout_is_random_in_training_only(image):
    model = tiny_unet(dropout=0.5)
    tl_unet.freeze_encoder(model)  # it has dropout of its own
    masks = [
        keras.ops.convert_to_numpy(model(image, training=training))
        for training in (True, True, False, False)
    ]
    assert not np.allclose(masks[0], masks[1])
    np.testing.assert_array_equal(masks[2], masks[3])


def test_decoder_filters_default_to_as_many_as_there_are_upsamplings():
    def filters(model):
        return [layer.filters for layer in model.layers if layer.name.endswith("_upsample")]

    assert filters(tl_unet.build_unet("vgg16", **NO_WEIGHTS)) == [512, 256, 128, 64]
    assert filters(tl_unet.build_unet("convnexttiny", **NO_WEIGHTS)) == [512, 256, 128, 64, 32]


@pytest.mark.parametrize(("encoder", "channels"), [("mobilenetv2", 8 + 3), ("vgg16", 64 + 8 + 3)])
def test_input_skip_shows_the_image_to_the_last_stage(encoder, channels):
    stages = 5 if encoder == "mobilenetv2" else 4
    model = tiny_unet(encoder=encoder, decoder_filters=(8,) * stages, input_skip=True)
    assert model.get_layer(f"decoder_stage{stages}_conv1").input.shape[-1] == channels
    image = keras.Model(model.input, model.get_layer("input_skip").output)(
        np.full((1, 64, 64, 3), 255.0)
    )
    np.testing.assert_allclose(keras.ops.convert_to_numpy(image), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        ("encoder", -1.0),
        ("rescale", 0.0),
        (None, 0.0),
        (tl_unet.Preprocessing(mean=(9, 9, 9)), -9.0),
    ],
)
def test_preprocessing_decides_what_the_encoder_sees_of_black(preprocessing, expected):
    model = tiny_unet(preprocessing=preprocessing, input_shape=(32, 32, 3))
    before = [layer for layer in model.layers if layer.name == "preprocessing"]
    tensor = before[0].output if before else model.input
    seen = keras.Model(model.input, tensor)(np.zeros((1, 32, 32, 3), "float32"))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(seen), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(encoder="resnet5"), "Did you mean 'resnet50'"),
        (dict(upsampling="cubic"), "`upsampling` must be one of"),
        (dict(normalization="instance"), "`normalization` must be one of"),
        (dict(normalize_features=True), "wants a `normalization`"),
        (dict(normalize_features="yes"), "`normalize_features` must be one of"),
        (dict(activation="relu"), "`activation` must be one of"),
        (dict(preprocessing="imagenet"), "`preprocessing` must be one of"),
        (dict(decoder="unett"), "Unknown decoder 'unett'. Did you mean 'unet'"),
        (dict(classes=0), "`classes` must be a positive int"),
        (dict(classes=True), "`classes` must be a positive int"),
        (dict(classes=2.0), "`classes` must be a positive int"),
        (dict(classes=np.bool_(True)), "`classes` must be a positive int"),
        (dict(decoder_filters=(8, 8, 8, 8, True)), "needs 5 positive ints"),
        (dict(input_shape=(True, 64, 3)), "positive ints"),
        (dict(activation="softmax"), "always 1"),
        (dict(dropout=1.0), "`dropout` must be"),
        (dict(dropout=None), "`dropout` must be"),
        (dict(decoder_filters=64), "needs 5 positive ints"),
        (dict(input_shape=64), "without the batch"),
        (dict(input_shape=None), "without the batch"),
        (dict(decoder_filters=(8, 8)), "needs 5 positive ints"),
        (dict(input_shape=(None, 64, 64, 3)), "without the batch"),
        (dict(input_shape=(64, 64, None)), "without the batch"),
        (dict(input_shape=(0, 64, 3)), "positive ints"),
    ],
)
def test_a_bad_argument_is_an_error_that_names_the_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_unet(**arguments)


def test_encoder_of_another_kind_is_a_type_error():
    with pytest.raises(TypeError, match="functional keras.Model"):
        tl_unet.build_unet(16)


def test_frozen_random_encoder_warns_and_a_trainable_one_does_not(recwarn):
    tiny_unet()
    assert not [w for w in recwarn if "frozen" in str(w.message)]
    with pytest.warns(UserWarning, match="frozen with random weights"):
        tiny_unet(freeze=True)


def test_plain_unet_has_no_pretrained_weights():
    with pytest.raises(ValueError, match="no ImageNet weights.*weights=None"):
        tl_unet.build_unet("unet")


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="channels_last"):
            tiny_unet()
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize(
    "encoder", ["unet", "vgg16", "efficientnetb0", "inceptionv3", "convnexttiny"]
)
def test_saved_model_gives_the_same_masks(encoder, tmp_path, image):
    spec = tl_unet.get_encoder_spec(encoder)
    filters = (8,) * (spec.stride.bit_length() - 1)
    model = tl_unet.build_unet(encoder, **NO_WEIGHTS, decoder_filters=filters, input_skip=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.get_layer("encoder").outputs) == len(spec.taps)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(loaded(image)),
        keras.ops.convert_to_numpy(model(image)),
        atol=1e-6,
    )


@pytest.mark.filterwarnings("ignore:.*frozen with random weights")
def test_saved_model_keeps_what_is_frozen(tmp_path):
    model = tiny_unet(encoder="vgg16", decoder_filters=(8, 8, 8, 8), freeze=True)
    tl_unet.unfreeze_encoder(model, stages=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [w.path for w in loaded.trainable_weights] == [w.path for w in model.trainable_weights]


def test_import_is_light():
    """It costs less than a second over `import keras`, and optional packages stay out."""
    code = """if True:
        import sys, time
        import keras
        optional = {"tensorflow_datasets", "matplotlib", "keras_hub", "PIL"}
        for name in list(sys.modules):  # Keras imports what it finds
            if name.split(".")[0] in optional:
                del sys.modules[name]
        start = time.process_time()
        import tl_unet
        print(time.process_time() - start)
        print(sorted(optional & {name.split(".")[0] for name in sys.modules}))
    """
    for _ in range(2):  # once more where something else made the machine slow
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        seconds, optional = run.stdout.split(maxsplit=1)
        assert optional.strip() == "[]"
        if float(seconds) < 1:
            break
    assert float(seconds) < 1
