"""Pre-trained weights: from files, from Keras' cache, for other than three channels; and what goes wrong."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from tiny import TINY, tiny_backbone

import tl_unet
from tl_unet.encoders.build import encoder_from_spec
from tl_unet.encoders.weights import inflate_kernel


def features(encoder, image):
    return [keras.ops.convert_to_numpy(feature) for feature in encoder(image.astype("float32"))]


@pytest.fixture
def tiny_weights(tmp_path):
    backbone = tiny_backbone()
    backbone.save_weights(tmp_path / "tiny.weights.h5")
    return tmp_path / "tiny.weights.h5", backbone


def test_a_weights_file_reaches_the_encoder(tiny_weights):
    path, backbone = tiny_weights
    model = tl_unet.build_unet(TINY, weights=path)
    for ours, theirs in zip(
        model.get_layer("encoder").get_weights(), backbone.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_real_vgg16_features_are_those_of_keras(vgg16_weights, image):
    backbone = keras.applications.VGG16(include_top=False, weights=str(vgg16_weights))
    theirs = keras.Model(backbone.input, backbone.get_layer("block5_conv3").output)
    expected = theirs(keras.applications.vgg16.preprocess_input(image[:, :32, :64].copy()))
    model = tl_unet.build_unet("vgg16", weights=vgg16_weights)
    encoder = model.get_layer("encoder")
    ours = keras.Model(model.input, encoder(model.get_layer("rgb_to_bgr").output)[-1])(
        image[:, :32, :64]
    )
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(expected), atol=1e-2, rtol=1e-4
    )


def test_the_older_format_of_keras_own_downloads_loads(tmp_path):
    backbone = keras.applications.MobileNet(include_top=False, weights=None)
    path = tmp_path / "mobilenet_1_0_224_tf_no_top.h5"
    backbone.save(path)
    spec = tl_unet.get_encoder_spec("mobilenet")
    encoder, _ = encoder_from_spec(spec, 3, path)
    for ours, theirs in zip(encoder.get_weights(), backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_file_of_a_backbone_with_built_in_preprocessing_loads(tmp_path, image):
    """Keras builds MobileNetV3 with a Rescaling inside by default, we without: the same weights all the same."""
    backbone = keras.applications.MobileNetV3Small(include_top=False, weights=None)
    path = tmp_path / "mobilenetv3small.weights.h5"
    backbone.save_weights(path)
    expected = keras.ops.convert_to_numpy(backbone(image[:, :32, :64]))
    model = tl_unet.build_unet("mobilenetv3small", weights=path, input_shape=(32, 64, 3))
    ours = keras.Model(
        model.input, model.get_layer("encoder")(model.get_layer("preprocessing").output)[-1]
    )
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(ours(image[:, :32, :64])), expected, atol=1e-4
    )


def test_efficientnet_from_a_file_sees_what_the_imagenet_one_sees(tmp_path, image, monkeypatch):
    """`weights="imagenet"` inserts a Rescaling that a path does not: both must give the features of the former."""
    backbone = keras.applications.EfficientNetB0(include_top=False, weights=None)
    # The published files hold ImageNet's deviation where the variance should be (tensorflow issue 49930).
    normalization = next(
        layer for layer in backbone.layers if isinstance(layer, keras.layers.Normalization)
    )
    statistics = [np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])]
    normalization.set_weights([*statistics, *normalization.get_weights()[2:]])
    path = tmp_path / "efficientnetb0.weights.h5"
    backbone.save_weights(path)

    module = _module_of(keras.applications.EfficientNetB0)
    monkeypatch.setattr(module.file_utils, "get_file", lambda *args, **kwargs: str(path))
    reference = keras.applications.EfficientNetB0(
        include_top=False, weights="imagenet", input_shape=(32, 64, 3)
    )
    expected = keras.ops.convert_to_numpy(reference(image[:, :32, :64]))
    for weights in (path, "imagenet"):
        model = tl_unet.build_unet("efficientnetb0", weights=weights, input_shape=(32, 64, 3))
        entered = model.get_layer("preprocessing").output
        ours = keras.Model(model.input, model.get_layer("encoder")(entered)[-1])
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(ours(image[:, :32, :64])), expected, atol=1e-4
        )


def _module_of(function):
    import sys

    return sys.modules[function.__module__]


@pytest.mark.parametrize(
    "name",
    ["mobilenetv2", pytest.param("nasnetmobile", marks=pytest.mark.slow), "convnexttiny"],
)
def test_imagenet_weights_come_through_keras_for_any_size(name, tmp_path, monkeypatch):
    """Keras would refuse unknown sides with ImageNet weights for some; the download is replaced by a local file."""
    spec = tl_unet.get_encoder_spec(name)
    path = tmp_path / "local.weights.h5"
    keras.utils.set_random_seed(1)
    local = spec.builder(input_shape=(None, None, 3), weights=None)
    local.save_weights(path)
    builder = getattr(keras.applications, _class_name(name))
    monkeypatch.setattr(_module_of(builder).file_utils, "get_file", lambda *a, **k: str(path))
    keras.utils.set_random_seed(2)
    encoder, _ = encoder_from_spec(spec, 3, "imagenet")
    assert encoder.input_shape == (None, None, None, 3)
    expected = local.get_weights()[:3]
    for ours, theirs in zip(encoder.get_weights(), expected, strict=False):
        np.testing.assert_array_equal(ours, theirs)


def _class_name(name):
    return next(n for n in dir(keras.applications) if n.lower() == name and n[0].isupper())


def test_without_network_the_error_names_the_file_its_place_and_the_remedy(monkeypatch):
    def offline(*args, **kwargs):
        raise Exception(
            "URL fetch failure on https://host/vgg16/vgg16_notop.h5: None -- no network"
        )

    monkeypatch.setattr(_module_of(keras.applications.VGG16).file_utils, "get_file", offline)
    with pytest.raises(FileNotFoundError) as error:
        tl_unet.build_unet("vgg16")
    message = str(error.value)
    assert "models/vgg16_notop.h5" in message.replace("\\", "/")
    assert "weights=path" in message
    assert "https://host/vgg16/vgg16_notop.h5" in message


def test_another_error_of_keras_is_not_called_a_failed_download(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(_module_of(keras.applications.VGG16).file_utils, "get_file", broken)
    with pytest.raises(RuntimeError, match="disk on fire"):
        tl_unet.build_unet("vgg16")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="No weights file"):
        tl_unet.build_unet("vgg16", weights=tmp_path / "none.weights.h5")


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ("vgg19", "vgg16"),
        ("mobilenet", "mobilenetv2"),
    ],
)
def test_a_file_of_another_backbone_is_an_error(stored, wanted, tmp_path):
    spec = tl_unet.get_encoder_spec(stored)
    path = tmp_path / "stored.weights.h5"
    spec.builder(input_shape=(None, None, 3), weights=None).save_weights(path)
    with pytest.raises(
        ValueError, match=f"does not hold the weights of '{wanted}'.*another backbone"
    ):
        tl_unet.build_unet(wanted, weights=path)


def test_a_file_with_the_classification_top_is_an_error(tmp_path):
    path = tmp_path / "top.weights.h5"
    keras.applications.MobileNet(weights=None).save_weights(path)
    with pytest.raises(ValueError, match="without its classification top"):
        tl_unet.build_unet("mobilenet", weights=path)


def test_a_file_that_is_no_weights_file_is_an_error(tmp_path):
    path = tmp_path / "text.weights.h5"
    path.write_text("not a weights file")
    with pytest.raises(ValueError, match="not an HDF5 file"):
        tl_unet.build_unet("mobilenet", weights=path)


def test_a_file_that_fails_to_load_leaves_the_model_as_it_was(tmp_path):
    wrong = tmp_path / "wrong.weights.h5"
    other = tiny_backbone()
    last = keras.layers.Conv2D(24, 3, strides=2, padding="same", use_bias=False)
    x = last(other.get_layer("relu4").output)
    x = keras.layers.BatchNormalization()(x)
    keras.Model(other.inputs, x).save_weights(wrong)  # as many arrays; all but the last ones fit
    model = tiny_backbone()
    before = model.get_weights()
    with pytest.raises(ValueError, match="does not hold the weights"):
        tl_unet.build_unet(model, weights=wrong, preprocessing=None)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


kernels = hnp.arrays(
    "float32", (3, 3, 3, 2), elements=st.floats(-1, 1, width=32, allow_subnormal=False)
)


@hypothesis.given(kernels, st.integers(1, 12), st.booleans())
def test_an_inflated_kernel_answers_a_grey_image_as_the_kernel_over_rgb_did(kernel, channels, bgr):
    inflated = inflate_kernel(kernel, channels, bgr)
    assert inflated.shape == (3, 3, channels, 2)
    if channels % 3 == 0 or channels == 1:
        np.testing.assert_allclose(inflated.sum(2), kernel.sum(2), atol=1e-5)


@hypothesis.given(kernels)
def test_the_first_three_of_more_channels_are_red_green_and_blue(kernel):
    inflated = inflate_kernel(kernel, 4)
    np.testing.assert_allclose(inflated[:, :, :3], kernel * 0.75, rtol=1e-6)
    np.testing.assert_allclose(inflated[:, :, 3], kernel[:, :, 0] * 0.75, rtol=1e-6)
    flipped = inflate_kernel(kernel, 4, bgr=True)
    np.testing.assert_allclose(flipped[:, :, :3], kernel[:, :, ::-1] * 0.75, rtol=1e-6)


@pytest.mark.parametrize("encoder", ["vgg16", "mobilenetv2"])
def test_one_channel_gives_the_features_of_three_equal_ones(encoder, request, image):
    weights = request.getfixturevalue(f"{encoder}_weights")
    grey = image[..., :1]
    colour = tl_unet.build_unet(encoder, weights=weights)
    single = tl_unet.build_unet(encoder, weights=weights, input_shape=(None, None, 1))
    single.set_weights(colour.get_weights())
    expected = keras.ops.convert_to_numpy(colour(np.repeat(grey, 3, axis=-1)))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(single(grey)), expected, atol=1e-6)


@pytest.mark.parametrize("encoder", ["vgg16", "mobilenetv2"])
def test_six_channels_that_repeat_a_picture_give_its_features(encoder, request, image):
    """Statistics, colour order and kernels all go round by three, so RGBRGB is seen as RGB was."""
    weights = request.getfixturevalue(f"{encoder}_weights")
    maps = []
    for channels, picture in ((3, image), (6, np.concatenate([image, image], -1))):
        model = tl_unet.build_unet(encoder, weights=weights, input_shape=(None, None, channels))
        last = "rgb_to_bgr" if channels == 3 and encoder == "vgg16" else "preprocessing"
        entered = model.get_layer(last).output
        maps.append(keras.Model(model.input, model.get_layer("encoder")(entered)[1])(picture))
    scale = np.abs(keras.ops.convert_to_numpy(maps[0])).max()
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(maps[1]), keras.ops.convert_to_numpy(maps[0]), atol=1e-4 * scale
    )


@pytest.mark.filterwarnings("ignore:.*frozen with random weights")
@pytest.mark.parametrize("encoder", ["unet", "efficientnetb0", "efficientnetv2b0", "convnexttiny"])
@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels_builds_without_weights(encoder, channels):
    filters = (8,) * (tl_unet.get_encoder_spec(encoder).stride.bit_length() - 1)
    shape = (32, 32, channels)
    model = tl_unet.build_unet(encoder, weights=None, input_shape=shape, decoder_filters=filters)
    assert model(np.zeros((1, 32, 32, channels), "float32")).shape == (1, 32, 32, 1)


def _normalized_first(input_shape=(None, None, 3), weights=None):
    image = keras.Input(input_shape)
    x = keras.layers.BatchNormalization(name="norm")(image)
    one = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="one")(x)
    two = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="two")(one)
    return keras.Model(image, two)


def test_a_file_for_an_encoder_of_ones_own_serves_any_number_of_channels(tmp_path, image):
    backbone, file = _normalized_first(), tmp_path / "own.weights.h5"
    for weight in backbone.get_layer("norm").weights:
        weight.assign([1.0, 2.0, 3.0])
    backbone.save_weights(file)
    taps = [tl_unet.Tap(2, "one"), tl_unet.Tap(4, "two")]
    spec = tl_unet.EncoderSpec("own", _normalized_first, taps, preprocessing="torch")
    colour, single, four = (
        tl_unet.build_unet(spec, weights=file, decoder_filters=(4, 4), input_shape=(None, None, n))
        for n in (3, 1, 4)
    )
    norm = four.get_layer("encoder").get_layer("norm")
    np.testing.assert_array_equal(norm.moving_mean, [1, 2, 3, 1])
    single.set_weights(colour.get_weights())  # the decoders' are random
    grey = image[..., :1]
    expected = keras.ops.convert_to_numpy(colour(np.repeat(grey, 3, axis=-1)))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(single(grey)), expected, atol=1e-6)
