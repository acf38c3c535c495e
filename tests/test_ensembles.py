"""`ensemble`: several models as one."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import shallow_unet, tiny_unet

import tl_unet
from tl_unet.classes import check_decidable


def masks(model, images):
    return keras.ops.convert_to_numpy(model(images))


def pictures(seed=0, sides=(32, 48)):
    return np.random.default_rng(seed).integers(0, 256, (2, *sides, 3), "uint8")


@pytest.fixture(scope="module")
def members():
    return [shallow_unet(), shallow_unet(decoder="residual"), shallow_unet(normalization="batch")]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100), height=st.integers(16, 40), count=st.integers(2, 3))
def test_its_mask_is_the_mean_of_the_members_masks_at_any_size(members, seed, height, count):
    images = pictures(seed, (height, 24))
    both = tl_unet.ensemble(members[:count])
    mean = np.mean([masks(model, images) for model in members[:count]], axis=0)
    np.testing.assert_allclose(masks(both, images), mean, atol=1e-6)


def test_it_shares_the_weights_and_leaves_the_models_alone(members):
    names = [model.name for model in members]
    both = tl_unet.ensemble(members)
    assert [model.name for model in members] == names
    assert len(both.weights) == sum(len(model.weights) for model in members)
    assert both.get_layer("member2").get_layer("encoder") is members[1].get_layer("encoder")


def test_it_is_saved_and_loaded_as_one_file(members, tmp_path):
    both = tl_unet.ensemble(members, name="three")
    both.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.name == "three"
    np.testing.assert_allclose(masks(loaded, pictures()), masks(both, pictures()), atol=1e-6)


def test_folding_tiles_and_views_work_on_it(members):
    both = tl_unet.ensemble(members)
    images = pictures()
    folded = tl_unet.fold_batch_norm(both)
    assert len(folded.weights) < len(both.weights)
    np.testing.assert_allclose(masks(folded, images), masks(both, images), atol=1e-4)
    flipped = tl_unet.predict_augmented(both, images, "horizontal_flip")
    mean = np.mean(
        [tl_unet.predict_augmented(model, images, "horizontal_flip") for model in members], axis=0
    )
    np.testing.assert_allclose(flipped, mean, atol=1e-6)
    tiles = [tl_unet.predict_tiled(model, images[0], 32) for model in (both, *members)]
    np.testing.assert_allclose(tiles[0], np.mean(tiles[1:], axis=0), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_it_is_exported_as_any_model(members, tmp_path, format):
    pytest.importorskip("onnxruntime" if format == "onnx" else "openvino")
    both = tl_unet.ensemble(members)
    path = tl_unet.export_model(both, tmp_path / "model", format)
    assert tl_unet.max_difference(both, path, pictures()) < 1e-5


def test_each_member_keeps_its_own_preprocessing():
    models = [shallow_unet(preprocessing=name) for name in ("encoder", "rescale")]
    models[1].set_weights(models[0].get_weights())
    both = tl_unet.ensemble(models)
    first, second = (masks(model, pictures()) for model in models)
    assert np.abs(first - second).max() > 1e-4
    np.testing.assert_allclose(masks(both, pictures()), (first + second) / 2, atol=1e-6)


def test_deep_supervision_counts_by_its_mask_without_a_warning(recwarn):
    deep = tiny_unet(decoder="unetplusplus", deep_supervision=True)
    plain = tiny_unet()
    both = tl_unet.ensemble([deep, plain])
    assert not [w for w in recwarn if "deep supervision" in str(w.message)]
    images = pictures()
    mean = (masks(deep, images) + masks(plain, images)) / 2
    np.testing.assert_allclose(masks(both, images), mean, atol=1e-6)


def test_a_fixed_size_holds_for_all(members):
    both = tl_unet.ensemble([members[0], shallow_unet(input_shape=(32, 48, 3))])
    assert both.input_shape == (None, 32, 48, 3)


def test_masks_are_float32_under_a_policy_of_16_bits(members):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        both = tl_unet.ensemble([members[0], half := shallow_unet()])
    finally:
        keras.config.set_dtype_policy("float32")
    images = pictures()
    mean = (masks(members[0], images) + masks(half, images)) / 2
    assert mean.dtype == masks(both, images).dtype == np.float32
    np.testing.assert_allclose(masks(both, images), mean, atol=1e-6)


def test_logits_are_refused_beside_probabilities_and_by_what_decides_on_classes(members):
    logits = [shallow_unet(activation=None), shallow_unet(activation=None)]
    with pytest.raises(
        ValueError, match=r"one activation.*linear.*sigmoid|one activation.*sigmoid.*linear"
    ):
        tl_unet.ensemble([members[0], logits[0]])
    check_decidable(tl_unet.ensemble(members))
    with pytest.raises(ValueError, match="gives logits"):
        check_decidable(tl_unet.ensemble(logits))


def test_a_sequential_around_a_model_is_a_member(members):
    around = keras.Sequential([keras.Input((None, None, 3)), members[0]])
    images = pictures()
    found = masks(tl_unet.ensemble([around, members[1]]), images)
    np.testing.assert_allclose(found, masks(tl_unet.ensemble(members[:2]), images), atol=1e-6)


def test_what_is_no_ensemble_is_refused(members):
    model = members[0]
    with pytest.raises(TypeError, match="must be a list or tuple"):
        tl_unet.ensemble(model)
    with pytest.raises(TypeError, match=r"functional keras\.Models"):
        tl_unet.ensemble([model, "unet"])
    with pytest.raises(ValueError, match="two models or more; received 1"):
        tl_unet.ensemble([model])
    with pytest.raises(ValueError, match="given twice"):
        tl_unet.ensemble([model, model])
    with pytest.raises(ValueError, match=r"masks must have one shape.*3"):
        tl_unet.ensemble([model, shallow_unet(classes=3)])
    with pytest.raises(ValueError, match="images must have one shape"):
        tl_unet.ensemble([model, shallow_unet(input_shape=(None, None, 4))])
    encoder, _ = tl_unet.split_model(model)
    with pytest.raises(ValueError, match="one output"):
        tl_unet.ensemble([model, encoder])
    flat = keras.Model(model.input, keras.layers.GlobalMaxPooling2D()(model.output))
    with pytest.raises(ValueError, match="one output"):
        tl_unet.ensemble([model, flat])
