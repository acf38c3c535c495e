"""Grad-CAM and feature maps: on models whose answer is known, and as laws on a small U-Net."""

import gc

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_unet

import tl_unet
from tl_unet import inspection

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def colour_model(kernel):
    """A U-Net without skips whose logits are `kernel` times the colours, averaged over 2x2 pixels: `kernel` has a column a class."""
    kernel = np.asarray(kernel, "float32")
    x = keras.Input((None, None, 3))
    encoder = keras.Model(
        x, [keras.layers.Identity()(x), keras.layers.AveragePooling2D(2)(x)], name="encoder"
    )
    image = keras.Input((None, None, 3), name="image")
    up = keras.layers.UpSampling2D(2, name="up")(encoder(image)[1])
    head = keras.layers.Conv2D(kernel.shape[1], 1, use_bias=False, name="logits")
    model = keras.Model(image, keras.layers.Activation("softmax")(head(up)))
    head.set_weights([kernel[None, None]])
    return model


@pytest.fixture
def quarters():
    """An image of 32x32 pixels: red, green, blue and white quarters."""
    image = np.zeros((32, 32, 3), "float32")
    image[:16, :16], image[:16, 16:], image[16:, :16], image[16:, 16:] = RED, GREEN, BLUE, WHITE
    return image


@pytest.fixture(scope="module")
def small():
    """Random, with three classes; the encoder has strides 2 to 32."""
    keras.utils.set_random_seed(1)
    return tiny_unet(classes=3, activation=None)


def inner(heat):
    """Means of the quarters without the seam, where enlarging blends."""
    return [
        float(heat[rows, columns].mean())
        for rows in (slice(0, 14), slice(18, 32))
        for columns in (slice(0, 14), slice(18, 32))
    ]


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam"])
def test_the_map_is_that_of_the_class(quarters, method):
    model = colour_model([[1, 0, 0.5], [0, 1, 0.25], [0, 0, -1]])
    found = [inner(tl_unet.grad_cam(model, quarters, c, method=method)) for c in range(3)]
    np.testing.assert_allclose(found[0], [1, 0, 0, 1], atol=1e-6)  # red is in red and in white
    np.testing.assert_allclose(found[1], [0, 1, 0, 1], atol=1e-6)
    np.testing.assert_allclose(found[2], [1, 0.5, 0, 0], atol=1e-6)  # white: 0.5 + 0.25 - 1


def test_one_class_has_a_foreground_and_a_background(quarters):
    model = colour_model([[1], [-1], [0]])
    assert inner(tl_unet.grad_cam(model, quarters)) == [1, 0, 0, 0]
    assert inner(tl_unet.grad_cam(model, quarters, 0)) == [0, 1, 0, 0]


def test_nothing_that_speaks_for_the_class_is_a_map_of_zeros(quarters):
    for kernel in (np.zeros((3, 2)), -np.ones((3, 2))):
        heat = tl_unet.grad_cam(colour_model(kernel), quarters)
        np.testing.assert_array_equal(heat, np.zeros((32, 32)))


def test_pixels_outside_of_the_region_have_no_part_in_hires_cam(quarters):
    model = colour_model(np.ones((3, 2)))
    region = np.zeros((32, 32, 1))
    region[:16] = 1
    heat = tl_unet.grad_cam(model, quarters, region=region, method="hires_cam")
    np.testing.assert_allclose(inner(heat), [1, 1, 0, 0], atol=1e-6)


def test_the_gradient_takes_also_the_way_through_coarser_maps():
    """Red reaches the logits directly with weight 1 and over the coarser map with -1; green over the coarser map only."""
    x = keras.Input((None, None, 3))
    fine = keras.layers.Identity()(x)
    encoder = keras.Model(x, [fine, keras.layers.AveragePooling2D(2)(fine)], name="encoder")
    image = keras.Input((None, None, 3))
    skip, bridge = encoder(image)
    both = keras.layers.Concatenate()([skip, keras.layers.UpSampling2D(2)(bridge)])
    head = keras.layers.Conv2D(1, 1, use_bias=False, name="logits")
    model = keras.Model(image, head(both))
    head.set_weights([np.array([1, 0, 0, -1, 1, 0], "float32").reshape(1, 1, 6, 1)])
    picture = np.zeros((4, 8, 3))
    picture[:, :4], picture[:, 4:] = RED, GREEN
    heat = tl_unet.grad_cam(model, picture, layer=1)
    np.testing.assert_allclose(heat, (picture == GREEN).all(-1), atol=1e-6)


def test_a_region_changes_the_map(small, image):
    left, right = np.zeros((2, 45, 70), bool)
    left[:, :35] = right[:, 35:] = True
    for method in inspection.METHODS:
        maps = [
            tl_unet.grad_cam(small, image[0], region=r, layer=4, method=method)
            for r in (None, left, right)
        ]
        assert all(heat.max() == 1 for heat in maps)
        for i in range(3):
            assert np.abs(maps[i] - maps[i - 1]).max() > 0.01


@settings(max_examples=8)
@given(
    st.integers(1, 50),
    st.integers(1, 50),
    st.sampled_from([None, 2, 8, 32, "decoder_stage5_conv2"]),
    st.integers(0, 2),
    st.sampled_from(inspection.METHODS),
)
def test_the_map_has_the_images_size_and_is_in_0_to_1(
    small, height, width, layer, class_index, method
):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), "uint8")
    heat = tl_unet.grad_cam(small, image, class_index, layer=layer, method=method)
    assert heat.shape == (height, width)
    assert heat.dtype == np.float32
    assert heat.min() >= 0
    assert heat.max() in (0, 1)


def test_a_model_is_left_as_it_was(image):
    model = tiny_unet()
    model.compile("sgd", tl_unet.DiceLoss())
    before, names = model.get_weights(), [layer.name for layer in model.layers]
    prediction = model.predict(image, verbose=0)
    tl_unet.grad_cam(model, image[0])
    np.testing.assert_array_equal(model.predict(image, verbose=0), prediction)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert [layer.name for layer in model.layers] == names
    copy = keras.models.clone_model(model)
    copy.set_weights(before)
    np.testing.assert_allclose(copy.predict(image, verbose=0), prediction, atol=1e-5)


def test_weights_that_changed_since_are_used(quarters):
    model = colour_model([[1, 0], [0, 0], [0, 0]])
    tl_unet.grad_cam(model, quarters, 0)
    model.get_layer("logits").set_weights([np.float32([[[[0, 0], [1, 0], [0, 0]]]])])
    assert inner(tl_unet.grad_cam(model, quarters, 0)) == [0, 1, 0, 1]


def test_a_model_that_is_gone_is_not_remembered(quarters):
    model = colour_model(np.ones((3, 1)))
    tl_unet.grad_cam(model, quarters)
    assert model in inspection._GRAPHS
    before = len(inspection._GRAPHS)
    del model
    gc.collect()
    assert len(inspection._GRAPHS) < before


def test_sixteen_bit_models_have_maps(image):
    keras.config.set_dtype_policy("mixed_bfloat16")
    heat = tl_unet.grad_cam(tiny_unet(), image[0], layer=4)
    assert heat.dtype == np.float32
    assert heat.max() == 1


def test_feature_maps_are_what_the_encoder_gives(small, image):
    maps = tl_unet.feature_maps(small, image[0])
    assert [v.shape for v in maps.values()] == [
        (64 // s, 96 // s, 4 * i) for i, s in enumerate(maps, 1)
    ]
    assert list(maps) == [2, 4, 8, 16, 32]
    model = colour_model(np.ones((3, 1)))
    pooled = tl_unet.feature_maps(model, np.arange(12).reshape(2, 2, 3))[2]
    np.testing.assert_array_equal(pooled, [[[4.5, 5.5, 6.5]]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(class_index=3), "from 0 to 2"),
        (dict(class_index=-1), "from 0 to 2"),
        (dict(class_index=1.0), "must be an int"),
        (dict(layer=64), r"strides \[2, 4, 8, 16, 32\]"),
        (dict(layer="decoder_stage1_conv3"), "Did you mean 'decoder_stage1_conv"),
        (dict(method="gradcam"), "`method` must be"),
        (dict(region=np.ones((45, 71))), r"sides of the image, \(45, 70\)"),
        (dict(region=np.zeros((45, 70))), "no pixel"),
        (dict(region=np.full((45, 70), 0.5)), "bools or 0 and 1"),
    ],
)
def test_bad_arguments_are_errors(small, image, options, message):
    with pytest.raises(ValueError, match=message):
        tl_unet.grad_cam(small, image[0], **options)


def test_layers_of_one_name_in_the_encoder_and_around_it_are_an_error(image):
    encoder = keras.Sequential([
        keras.Input((None, None, 3)),
        keras.layers.Rescaling(1.0, name="preprocessing"),
        keras.layers.Conv2D(2, 3, padding="same"),
        keras.layers.Conv2D(2, 3, strides=2, padding="same"),
    ])  # fmt: skip
    model = tl_unet.build_unet(encoder, preprocessing="rescale", decoder_filters=(4,), freeze=False)
    with pytest.raises(ValueError, match=r"\['preprocessing'\].*other names"):
        tl_unet.feature_maps(model, image[0])


def test_other_images_and_models_are_errors(small, image):
    for wrong in (image, image[0, ..., :2], image[0, ..., 0]):
        with pytest.raises(ValueError, match="one image of shape"):
            tl_unet.grad_cam(small, wrong)
    with pytest.raises(ValueError, match="from 0 to 1"):
        tl_unet.grad_cam(colour_model(np.ones((3, 1))), image[0, :32, :32], 2)
    with pytest.raises(ValueError, match="'encoder' and 'logits'"):
        tl_unet.feature_maps(keras.Sequential([keras.Input((8, 8, 3))]), image[0])


@pytest.mark.parametrize("decoder", ["fpn", "unetplusplus"])
def test_the_heat_has_the_images_size_whatever_the_decoder(decoder):
    filters = (16, 8) if decoder == "fpn" else (16, 8, 8, 8, 8)
    model = tiny_unet(decoder=decoder, decoder_filters=filters)
    heat = tl_unet.grad_cam(model, np.random.default_rng(0).uniform(0, 255, (45, 70, 3)))
    assert heat.shape == (45, 70)
    assert heat.min() >= 0
    assert heat.max() <= 1
