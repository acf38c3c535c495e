"""What every registered encoder promises; and what the preprocessing of every family is."""

import pathlib

import encoder_table
import keras
import numpy as np
import pytest

import tl_unet
from tl_unet.encoders.build import encoder_from_spec
from tl_unet.encoders.preprocessing import apply_preprocessing

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"


def _first_maps_locate_a_square(encoder, strides, size=192):
    """Distance, in strides, between a bright square and where the finest two maps respond to it."""
    corner, side = 104, 16
    blank = np.zeros((1, size, size, 3), "float32")
    marked = blank.copy()
    marked[:, corner : corner + side, corner : corner + side] = 1.0
    fine = keras.Model(encoder.inputs[0], encoder.outputs[:2])
    distances = []
    for stride, with_square, without in zip(strides, fine(marked), fine(blank), strict=False):
        response = np.abs(
            keras.ops.convert_to_numpy(with_square) - keras.ops.convert_to_numpy(without)
        )[0].sum(-1)
        rows, columns = np.indices(response.shape)
        centre = [(response * axis).sum() / response.sum() for axis in (rows, columns)]
        expected = (corner + side / 2) / stride - 0.5
        distances.append(max(abs(c - expected) for c in centre))
    return distances


# Building these takes more than a few seconds; each has a smaller sibling among the others.
LARGE = {
    *(f"efficientnetb{i}" for i in (4, 5, 6, 7)),
    *(f"efficientnetv2{size}" for size in "ml"),
    *(f"convnext{size}" for size in ("base", "large", "xlarge")),
    *(
        "densenet201",
        "inceptionresnetv2",
        "nasnetlarge",
        "nasnetmobile",
        "resnet152",
        "resnet152v2",
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in tl_unet.list_encoders()],
)
def test_encoder_contract(name):
    """Built twice; maps aligned at each stride; masks of the image's size, for any size; frozen means no trainable weight; its row in the docs is true."""
    spec = tl_unet.get_encoder_spec(name)
    first, strides = encoder_from_spec(spec, 3, None)
    channels = [output.shape[-1] for output in first.outputs]
    assert strides == [tap.stride for tap in spec.taps]
    assert first.input_shape == (None, None, None, 3)
    for distance in _first_maps_locate_a_square(first, strides):
        assert distance < 1.5

    if spec.family != "custom":
        assert encoder_table.row(spec, first) in (DOCS / "encoders.md").read_text().splitlines()

    filters = (8,) * (spec.stride.bit_length() - 1)  # the decoder is not under test
    with pytest.warns(UserWarning, match="frozen with random weights"):
        model = tl_unet.build_unet(name, weights=None, decoder_filters=filters)
    encoder = model.get_layer("encoder")
    assert [output.shape[-1] for output in encoder.outputs] == channels
    assert encoder.trainable_weights == []
    assert model.trainable_weights

    side = 3 * spec.stride
    maps = encoder.compute_output_spec(keras.KerasTensor((1, side, 2 * side, 3)))
    assert [m.shape[1:3] for m in maps] == [(side // s, 2 * side // s) for s in strides]

    image = np.random.default_rng(0).integers(0, 256, (1, spec.min_size, 50, 3), "uint8")
    mask = keras.ops.convert_to_numpy(model(image))
    assert mask.shape == (1, spec.min_size, 50, 1)
    assert mask.dtype == np.float32
    assert np.isfinite(mask).all()
    assert (mask >= 0).all()
    assert (mask <= 1).all()


# One backbone of each way of preprocessing, with the module whose `preprocess_input` is the authority, and the layer
# that the preprocessed image enters where the backbone carries its preprocessing inside.
AUTHORITIES = {
    "vgg16": ("vgg16", None),
    "vgg19": ("vgg19", None),
    "resnet50": ("resnet", None),
    "resnet50v2": ("resnet_v2", None),
    "densenet121": ("densenet", None),
    "mobilenet": ("mobilenet", None),
    "mobilenetv2": ("mobilenet_v2", None),
    "xception": ("xception", None),
    "inceptionv3": ("inception_v3", None),
    "inceptionresnetv2": ("inception_resnet_v2", None),
    "nasnetmobile": ("nasnet", None),
    "mobilenetv3small": ("mobilenet_v3", "conv"),
    "mobilenetv3large": ("mobilenet_v3", "conv"),
    "efficientnetv2b0": ("efficientnet_v2", "stem_conv"),
    "efficientnetv2b3": ("efficientnet_v2", "stem_conv"),
    "efficientnetv2s": ("efficientnet_v2", "stem_conv"),
    "efficientnetv2m": ("efficientnet_v2", "stem_conv"),
    "efficientnetv2l": ("efficientnet_v2", "stem_conv"),
    "convnexttiny": ("convnext", "convnext_tiny_stem"),
}


def _as_keras_does_it(name, image):
    module, inner = AUTHORITIES[name]
    done = getattr(keras.applications, module).preprocess_input(image.copy())
    if inner is None:
        return done
    builder = tl_unet.get_encoder_spec(name).builder.func
    backbone = builder(include_top=False, weights=None, input_shape=(None, None, 3))
    return keras.ops.convert_to_numpy(
        keras.Model(backbone.input, backbone.get_layer(inner).input)(done)
    )


def _as_we_do_it(name, image, dtype):
    tensor = keras.Input(image.shape[1:])
    done = apply_preprocessing(tensor, tl_unet.get_encoder_spec(name).statistics)
    return keras.ops.convert_to_numpy(keras.Model(tensor, done)(image.astype(dtype)))


@pytest.mark.parametrize("name", AUTHORITIES)
def test_preprocessing_equals_the_backbones_own(name, image):
    image = image.astype("uint8").astype("float32")
    theirs = _as_keras_does_it(name, image)
    for dtype in ("float32", "uint8"):
        ours = _as_we_do_it(name, image, dtype)
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.ptp(theirs), err_msg=dtype)


def test_every_family_has_its_preprocessing_checked():
    families = {tl_unet.get_encoder_spec(name).family for name in tl_unet.list_encoders()}
    checked = {tl_unet.get_encoder_spec(name).family for name in AUTHORITIES}
    # EfficientNet has no authority without its ImageNet file: see test_weights.py. The plain U-Net has none at all.
    assert families - checked - {"custom"} == {"EfficientNet", "U-Net"}


def test_the_readmes_table_of_encoders_is_up_to_date():
    assert encoder_table.short_table() in (DOCS.parent / "README.md").read_text()
