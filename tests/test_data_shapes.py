"""The synthetic figures: fixed by seed and index, labelled as drawn, not solved by colour."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_unet.data import shapes


def arrays(subset):
    pairs = [(image.numpy(), mask.numpy()) for image, mask in subset.dataset]
    return tuple(np.concatenate(part) for part in zip(*pairs, strict=True))


def test_a_picture_depends_on_seed_and_index_alone():
    few, many = arrays(shapes(3, size=32, seed=7)), arrays(shapes(9, size=32, seed=7, batch_size=2))
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a, b[:3])
    assert (arrays(shapes(3, size=32, seed=8))[0] != few[0]).any()
    assert (few[0][0] != few[0][1]).any()


@settings(max_examples=15)
@given(
    st.integers(16, 48),
    st.integers(16, 48),
    st.integers(1, 7),
    st.integers(1, 5),
    st.integers(0, 99),
)
def test_shapes_types_and_values_keep_the_contract(height, width, classes, channels, seed):
    subset = shapes(2, size=(height, width), classes=classes, channels=channels, seed=seed)
    image, mask = arrays(subset)
    assert image.shape == (2, height, width, channels)
    assert mask.shape == (2, height, width, 1)
    assert image.dtype == np.float32
    assert mask.dtype == (np.float32 if classes == 1 else np.int32)
    assert image.min() >= 0
    assert image.max() <= 255
    assert image.max() > 1  # 0..255, not 0..1
    assert set(np.unique(mask)) <= set(range(max(2, classes)))
    assert len(subset.names) == len(set(subset.names)) == 2


def test_every_class_occurs_and_so_does_the_background():
    _, mask = arrays(shapes(60, size=32, classes=7))
    assert set(np.unique(mask)) == set(range(7))
    assert 0.1 < (mask > 0).mean() < 0.6


def test_one_colour_threshold_does_not_find_the_figures():
    image, mask = arrays(shapes(100))
    far = np.linalg.norm(image - np.median(image, (1, 2), keepdims=True), axis=-1)
    truth = mask[..., 0]

    def dice(guess):
        both = (guess * truth).sum((1, 2))
        return (2 * both / np.maximum(guess.sum((1, 2)) + truth.sum((1, 2)), 1)).mean()

    assert max(dice((far > t).astype(float)) for t in range(10, 250, 10)) < 0.75


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "count"),
        ({"classes": 8}, r"in 1\.\.7"),
        ({"size": 8}, "at least 16"),
        ({"size": (32,)}, "size"),
        ({"channels": 0}, "channels"),
        ({"seed": -1}, "seed"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        shapes(**{"count": 2, **options})
