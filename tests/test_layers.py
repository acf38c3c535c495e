"""The layers of our own: padding, cropping, reversing."""

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest

from tl_unet.layers import CropLike, PadToMultiple, ReverseChannels

sides = st.integers(1, 40)


@hypothesis.given(sides, sides, st.sampled_from([1, 2, 8, 16]), st.integers(1, 3))
def test_padding_repeats_the_edge_up_to_the_next_multiple(height, width, multiple, factor):
    image = np.random.default_rng(0).normal(size=(1, height, width, 2)).astype("float32")
    layer = PadToMultiple(multiple, multiple * factor)
    padded = keras.ops.convert_to_numpy(layer(image))
    after = [max(-(-side // multiple), factor) * multiple for side in (height, width)]
    assert padded.shape == (1, *after, 2) == layer.compute_output_shape(image.shape)
    expected = np.pad(
        image, ((0, 0), (0, after[0] - height), (0, after[1] - width), (0, 0)), mode="edge"
    )
    np.testing.assert_array_equal(padded, expected)


@hypothesis.given(sides, sides)
def test_cropping_undoes_padding(height, width):
    image = np.random.default_rng(0).normal(size=(2, height, width, 1)).astype("float32")
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(CropLike()([PadToMultiple(16)(image), image])), image
    )


def test_unknown_sides_stay_unknown_in_the_shape():
    assert PadToMultiple(32)(keras.Input((None, 40, 3))).shape == (None, None, 64, 3)


def test_a_minimum_that_is_no_multiple_is_refused():
    with pytest.raises(ValueError, match="multiple of it"):
        PadToMultiple(32, 48)


@pytest.mark.parametrize("layer", [PadToMultiple(16, 48), CropLike(), ReverseChannels()])
def test_layers_come_back_from_their_config(layer):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()
