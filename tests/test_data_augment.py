"""Augmentation: image and mask move together, masks keep their values, runs repeat."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_unet.data import augment, augmentation

OFF = {
    "flip": False,
    "rotation": 0,
    "scale": 0,
    "translation": 0,
    "brightness": 0,
    "contrast": 0,
    "saturation": 0,
    "hue": 0,
}
GEOMETRY = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}


def scene(height=32, width=32, count=4):
    """Colourful images, and a mask of a rectangle off the centre."""
    images = np.random.default_rng(0).uniform(20, 235, (count, height, width, 3))
    masks = np.zeros((count, height, width, 1), "float32")
    masks[:, height // 6 : height // 2, width // 3 : width - width // 8] = 1
    return images.astype("float32"), masks


def run(images, masks, **options):
    return [part.numpy() for part in augmentation(**options)(images, tf.constant(masks))]


@settings(max_examples=20)
@given(
    flip=st.sampled_from([False, True, "vertical", "horizontal_and_vertical"]),
    rotation=st.floats(0, 180),
    scale=st.floats(0, 0.6),
    translation=st.floats(0, 0.5),
    height=st.integers(24, 70),
    width=st.integers(24, 70),
    seed=st.integers(0, 2**30),
)
def test_an_image_that_is_its_mask_stays_its_mask(
    flip, rotation, scale, translation, height, width, seed
):
    _, masks = scene(height, width)
    images = np.repeat(masks * 255, 3, -1)
    options = {"flip": flip, "rotation": rotation, "scale": scale, "translation": translation}
    options |= {"seed": seed, **GEOMETRY}
    moved, mask = run(images, masks, **options)
    assert set(np.unique(mask)) <= {0, 1}
    inside = moved[..., :1] > 127.5
    # They may part only on the edge, where the image is interpolated.
    wrong = inside != (mask == 1)
    assert (np.abs(moved[..., :1] - 127.5)[wrong] < 127).all()
    assert wrong.mean() < 0.06


@settings(max_examples=15)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=7), st.integers(0, 2**30))
def test_masks_keep_their_values_and_dtype(values, seed):
    masks = np.random.default_rng(seed).choice(np.array(values, "int32"), (2, 24, 24, 1))
    images, _ = scene(24, 24, 2)
    moved, mask = run(images, masks, seed=seed, rotation=180, scale=0.5)
    assert mask.dtype == np.int32
    assert mask.shape == masks.shape
    assert moved.shape == images.shape
    assert set(np.unique(mask)) <= set(values)
    assert moved.min() >= -1e-3
    assert moved.max() <= 255.001


def test_class_numbers_survive_a_mixed_precision_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")  # 8 bits: 201 would become 200
    images, _ = scene(count=2)
    masks = np.full((2, 32, 32, 1), 201, "int32")
    moved, mask = run(images, masks)
    assert moved.dtype == np.float32
    assert (mask == 201).all()


def test_what_comes_in_from_outside_is_mirrored_not_invented():
    images, masks = scene()
    options = {"rotation": 180, "scale": 0.8, "translation": 0.9, **GEOMETRY}
    moved, mask = run(images * 0 + 90, masks * 0 + 1, **options)
    assert (mask == 1).all()
    np.testing.assert_allclose(moved, 90, atol=1e-3)


@pytest.mark.parametrize(
    ("option", "value", "moves_mask"),
    [
        ("flip", True, True),
        ("flip", "vertical", True),
        ("rotation", 40, True),
        ("scale", 0.4, True),
        ("translation", 0.3, True),
        ("brightness", 0.3, False),
        ("contrast", 0.5, False),
        ("saturation", 0.5, False),
        ("hue", 0.2, False),
    ],
)
def test_each_option_changes_the_image_and_geometry_the_mask(option, value, moves_mask):
    images, masks = scene(count=8)
    moved, mask = run(images, masks, **{**OFF, option: value})
    assert np.abs(moved - images).max() > 5
    assert (mask != masks).any() == moves_mask


def test_a_flip_moves_pixels_and_does_not_blur_them():
    images, masks = scene(31, 46, count=8)
    moved, mask = run(images, masks, **{**OFF, "flip": "horizontal_and_vertical"})
    seen = set()
    for index in range(8):
        axes = next(
            axes
            for axes in ((), (0,), (1,), (0, 1))
            if (np.flip(images[index], axes) == moved[index]).all()
        )
        np.testing.assert_array_equal(mask[index], np.flip(masks[index], axes))
        seen.add(axes)
    assert len(seen) > 1


def test_scale_is_the_change_of_an_objects_side():
    images, masks = scene(96, 96, count=32)
    masks[:] = 0
    masks[:, 36:60, 36:60] = 1
    _, mask = run(images, masks, **{**OFF, "scale": 0.5})
    sides = np.sqrt(mask.sum((1, 2, 3))) / 24
    assert 0.45 < sides.min() < 0.7
    assert 1.3 < sides.max() < 1.55


@pytest.mark.parametrize("shape", [(40, 72), (72, 40)])
def test_a_turn_is_rigid_whatever_the_shape_of_the_image(shape):
    images, masks = scene(*shape, count=16)
    masks[:] = 0
    middle = shape[0] // 2, shape[1] // 2
    masks[:, middle[0] - 10 : middle[0] + 10, middle[1] - 10 : middle[1] + 10] = 1
    _, mask = run(images, masks, **{**OFF, "rotation": 180})
    rows, columns = np.indices(shape)
    off = np.hypot(rows - (shape[0] - 1) / 2, columns - (shape[1] - 1) / 2)
    near = mask[..., 0] * (off < 20)  # farther out mirror images of the square come in
    np.testing.assert_allclose(near.sum((1, 2)), 400, rtol=0.05)
    assert (off * near).max() < np.hypot(10, 10) + 1


def test_with_everything_off_nothing_changes():
    images, masks = scene()
    moved, mask = run(images, masks, **OFF)
    np.testing.assert_array_equal(moved, images)
    np.testing.assert_array_equal(mask, masks)


@pytest.mark.parametrize(
    ("option", "value", "measure"),
    [
        ("brightness", 0.2, lambda image: image.mean()),
        ("contrast", 0.4, lambda image: image.std()),
        ("saturation", 0.4, lambda image: (image.max(-1) - image.min(-1)).mean()),
    ],
)
def test_colour_changes_go_both_ways(option, value, measure):
    images, masks = scene(16, 16, count=64)
    images = 80 + images / 4  # far from the ends of the range
    moved, _ = run(images, masks, **{**OFF, option: value})
    ratio = np.array([measure(b) / measure(a) for a, b in zip(images, moved, strict=True)])
    assert 0.3 < (ratio > 1).mean() < 0.7
    assert abs(ratio - 1).max() < 0.6


@settings(max_examples=15)
@given(
    brightness=st.floats(0, 0.1),
    contrast=st.floats(0, 0.3),
    saturation=st.floats(0, 0.3),
    hue=st.floats(0, 0.5),
    seed=st.integers(0, 2**30),
)
def test_colour_changes_together_are_those_one_after_another(seed, **options):
    images, masks = scene()
    images = 100 + images / 5  # far from the ends of the range
    together, _ = run(images, masks, **{**OFF, **options}, seed=seed)
    for option, value in options.items():  # with the same seed the same is drawn for each
        images, _ = run(images, masks, **{**OFF, option: value}, seed=seed)
    np.testing.assert_allclose(together, images, atol=2e-3)


@pytest.mark.parametrize("option", ["saturation", "hue"])
def test_saturation_and_hue_keep_greys_and_the_luma(option):
    images, masks = scene()
    images = 100 + images / 5
    changes = {**OFF, option: 0.4}
    moved, _ = run(images, masks, **changes)
    luma = [0.299, 0.587, 0.114]
    assert np.abs(moved - images).max() > 5
    np.testing.assert_allclose(moved @ luma, images @ luma, atol=1e-2)
    greys = np.repeat(images[..., :1], 3, -1)
    np.testing.assert_allclose(run(greys, masks, **changes)[0], greys, atol=1e-2)


def test_hue_turns_colours_by_a_share_of_the_circle():
    masks = np.zeros((64, 1, 1, 1), "float32")
    red = np.full((64, 1, 1, 3), 120.0) + [30.0, 0.0, 0.0]
    moved, _ = run(red.astype("float32"), masks, **{**OFF, "hue": 1 / 3})
    # A third of the circle either way: red becomes anything from blue to green.
    assert set(moved.argmax(-1).ravel()) == {0, 1, 2}
    chroma = np.array([[0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    for share in (0.05, 0.3):
        turned, _ = run(red.astype("float32"), masks, **{**OFF, "hue": share})
        i, q = chroma @ turned[:, 0, 0].T
        angles = np.angle((i + 1j * q) / (chroma[:, 0] @ [1, 1j])) / (2 * np.pi)
        assert 0.9 * share < np.abs(angles).max() < 1.001 * share  # the greatest of 64
        assert angles.min() < 0 < angles.max()


def test_colours_stay_in_range_in_a_graph_of_unknown_sides():
    images = np.random.default_rng(0).choice([0.0, 255.0], (4, 8, 9, 3)).astype("float32")
    masks = np.zeros((4, 8, 9, 1), "int32")
    options = {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0.5}
    augment = augmentation(**{**OFF, **options})
    unknown = tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None, None, None, 1), tf.int32)
    moved, _ = tf.function(augment, input_signature=unknown)(images, masks)
    assert moved.shape == images.shape
    assert moved.numpy().min() >= 0
    assert moved.numpy().max() <= 255
    empty, _ = augment(images[:0], tf.constant(masks[:0]))
    assert empty.shape == (0, 8, 9, 3)


@pytest.mark.parametrize("shape", [(40, 72, 3), (72, 40, 1), (1, 5, 4)])
def test_pixels_move_as_tensorflows_own_transformation_moves_them(shape):
    drawn = np.random.default_rng(1)
    images = drawn.uniform(0, 255, (4, *shape)).astype("float32")
    masks = drawn.integers(0, 256, (4, *shape[:2], 1)).astype("int32")
    draws = {name: tf.constant(drawn.uniform(-1, 1, 4), tf.float32) for name in augment._DRAWS}
    transform = augment._affine(draws, images, "horizontal_and_vertical", 180, 0.6, 0.9)
    rows = np.concatenate([*transform, np.zeros((2, 4))]).T
    expected = [
        tf.raw_ops.ImageProjectiveTransformV3(
            images=part,
            transforms=tf.constant(rows, tf.float32),
            output_shape=shape[:2],
            fill_value=0.0,
            fill_mode="REFLECT",
            interpolation=kind,
        )
        for part, kind in ((images, "BILINEAR"), (masks, "NEAREST"))
    ]
    moved, mask = augment._resampled(images, masks, transform)
    np.testing.assert_allclose(moved, expected[0], atol=0.05)
    # In the middle between two pixels rounding decides.
    assert (mask == expected[1]).numpy().mean() > 0.99


def compiled_parts(augment, height):
    """The names of what XLA compiles in a graph that augments images of this height."""
    images = tf.TensorSpec((None, height, 32, 3))
    masks = tf.TensorSpec((None, height, 32, 1))
    graph = tf.function(augment).get_concrete_function(images, masks, [0, 1]).graph.as_graph_def()
    return {
        part.signature.name for part in graph.library.function if part.attr["_XlaMustCompile"].b
    }


def test_a_graph_of_known_sides_is_compiled_once_for_all_seeds_and_gives_the_same():
    images, masks = scene()
    plain = run(images, masks, rotation=30, seed=1)
    names = compiled_parts(augmentation(rotation=30, seed=1), 32)
    assert len(names) == 1
    assert compiled_parts(augmentation(rotation=30, seed=2), 32) == names
    pairs = tf.data.Dataset.from_tensors((images, masks)).map(augmentation(rotation=30, seed=1))
    image, mask = next(iter(pairs))
    np.testing.assert_allclose(image, plain[0], atol=0.05)
    assert (mask == plain[1]).numpy().mean() > 0.99


def test_nothing_is_compiled_where_sides_change_or_tensorflow_cannot(monkeypatch):
    assert not compiled_parts(augmentation(), None)
    monkeypatch.setattr("tl_unet.data.augment._compiles", lambda: False)
    assert not compiled_parts(augmentation(), 32)


def test_masks_of_other_sides_are_told():
    images, masks = scene()
    augment = augmentation()
    with pytest.raises(ValueError, match=r"same height and width.*\(4, 16, 32, 1\)"):
        augment(images, masks[:, ::2])
    sides = tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None, None, None, 1))
    with pytest.raises(tf.errors.InvalidArgumentError, match="same height and width"):
        tf.function(augment, input_signature=sides)(images, masks[:, ::2])


def test_each_image_of_a_batch_gets_a_change_of_its_own():
    images, masks = scene(count=1)
    moved, _ = run(np.repeat(images, 6, 0), np.repeat(masks, 6, 0), rotation=30)
    apart = np.abs(moved[:, None] - moved[None]).max((2, 3, 4))
    assert (apart[~np.eye(6, dtype=bool)] > 1).all()


def test_it_repeats_with_the_seed_and_only_with_it():
    images, masks = scene()
    one, two, other = (run(images, masks, seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 5


def test_images_without_three_channels_need_colour_turned_off():
    images, masks = scene()
    with pytest.raises(ValueError, match="1 channels"):
        augmentation()(images[..., :1], tf.constant(masks))
    moved, _ = run(images[..., :1], masks, saturation=0, hue=0)
    assert moved.shape == (4, 32, 32, 1)


def test_what_is_no_batch_or_has_unknown_channels_is_told():
    images, masks = scene()
    with pytest.raises(ValueError, match=r"`masks` must be a batch .* \(4, 32, 32\)"):
        augmentation()(images, masks[..., 0])
    with pytest.raises(ValueError, match=r"`images` must be a batch .* \(32, 32, 3\)"):
        augmentation()(images[0], masks[0])
    spec = tf.TensorSpec((None, None, None, None)), tf.TensorSpec((None, None, None, 1))
    with pytest.raises(ValueError, match="number of the images' channels is unknown"):
        tf.function(augmentation()).get_concrete_function(*spec)


def test_a_seed_given_decides_with_the_augmentations_own():
    images, masks = scene()
    one, other = augmentation(seed=1), augmentation(seed=2)
    again = [one(images, masks, seed=[3, 4])[0].numpy() for _ in range(2)]
    np.testing.assert_array_equal(*again)
    assert np.abs(again[0] - other(images, masks, seed=[3, 4])[0]).max() > 5
    assert np.abs(again[0] - one(images, masks, seed=[3, 5])[0]).max() > 5


@pytest.mark.parametrize(
    "options",
    [
        {"flip": "sideways"},
        {"rotation": 181},
        {"rotation": -1},
        {"scale": 1.0},
        {"scale": -0.1},
        {"translation": 1.0},
        {"brightness": 1.5},
        {"hue": 0.6},
    ],
)
def test_arguments_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        augmentation(**options)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_pipelines_run_and_repeat_on_the_other_backends(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    code = """
import numpy as np
from tl_unet.data import shapes
def epoch():
    data = shapes(4, size=32, batch_size=2, shuffle=True, augment=True).dataset
    return [image.numpy() for image, _ in data]
assert all((a == b).all() for a, b in zip(epoch(), epoch(), strict=True))
"""
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
