"""Deep supervision: the loss sees auxiliary masks in training, and nobody else ever does."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from test_decoders import build, decoder_weights, numbers

import tl_unet
from tl_unet.deep_supervision import DeeplySupervised

HEADS = {"unetplusplus": 2, "unet3plus": 2}  # auxiliary ones, on four stages of the tiny encoder


@pytest.fixture
def masks(image):
    return (image[..., :1] > 128).astype("float32")


def supervised(decoder="unetplusplus", weight=True, **options):
    keras.utils.set_random_seed(1)
    encoder = {"encoder_depth": 4, "depth": 4}
    return build(decoder, deep_supervision=weight, **encoder, **options)


def compiled(model, run_eagerly=True):
    """Ready to train; eagerly, where no test is about the graph: tracing takes most of the time."""
    model.compile(
        keras.optimizers.SGD(0.1),
        tl_unet.DiceLoss(),
        metrics=[tl_unet.IoU()],
        jit_compile=False,
        run_eagerly=run_eagerly,
    )
    return model


@pytest.mark.parametrize("decoder", HEADS)
def test_the_model_has_one_output_like_any_other(decoder, image, masks):
    model = supervised(decoder)
    assert isinstance(model, DeeplySupervised)
    assert model.output_shape == (None, None, None, 1)
    assert len(model.outputs) == 1
    assert numbers(model(image)).shape == masks.shape
    assert compiled(model).predict(image, verbose=0).shape == masks.shape
    assert tl_unet.predict_tiled(model, image[0], tile_size=32, overlap=8).shape == (45, 70, 1)
    assert set(model.evaluate(image, masks, verbose=0, return_dict=True)) == {"loss", "iou"}


@pytest.mark.parametrize("decoder", HEADS)
def test_in_training_every_head_gives_a_mask_of_the_image_and_all_weights_learn(
    decoder, image, masks
):
    model = supervised(decoder)
    heads = model(image, training=True)
    assert len(heads) == 1 + HEADS[decoder]
    assert {numbers(head).shape for head in heads} == {masks.shape}
    for weight in model.trainable_weights:
        if weight.path.endswith("bias"):
            weight.assign(keras.ops.full(weight.shape, 0.1))
    before = [numbers(weight) for weight in model.trainable_weights]
    compiled(model).train_on_batch(image, masks)
    changed = [
        not np.array_equal(a, numbers(b))
        for a, b in zip(before, model.trainable_weights, strict=True)
    ]
    assert all(changed)


@pytest.mark.parametrize(("weight", "share", "eagerly"), [(True, 1.0, False), (0.25, 0.25, True)])
def test_the_loss_is_the_weighted_mean_over_the_heads(weight, share, eagerly, image, masks):
    model = supervised(weight=weight)
    model.get_layer("encoder").trainable = False  # so that its dropout does not draw again
    loss = tl_unet.DiceLoss()
    each = [float(loss(masks, head)) for head in model(image, training=True)]
    weights = [1.0, *[share] * (len(each) - 1)]
    logs = compiled(model, eagerly).train_on_batch(image, masks, return_dict=True)
    assert logs["loss"] == pytest.approx(np.average(each, weights=weights), rel=1e-5)
    assert logs["loss"] != pytest.approx(each[0], rel=1e-5)


def test_losses_of_layers_count_once(image, masks):
    model = supervised()
    model.get_layer("encoder").trainable = False
    without = compiled(model).test_on_batch(image, masks, return_dict=True)["loss"]
    layer = model.get_layer("logits")
    layer.kernel_regularizer = keras.regularizers.L2(10.0)
    layer.kernel.regularizer = layer.kernel_regularizer
    penalty = float(sum(model.losses))
    assert penalty > 0
    heads = model(image, training=True)
    mean = np.mean([float(tl_unet.DiceLoss()(masks, head)) for head in heads])
    logs = compiled(model).train_on_batch(image, masks, return_dict=True)
    assert logs["loss"] == pytest.approx(mean + penalty, rel=1e-5)
    assert without < logs["loss"]


def test_metrics_and_validation_see_the_mask_alone(image, masks):
    model = compiled(supervised(), run_eagerly=False)
    history = model.fit(
        image, masks, validation_data=(image, masks), sample_weight=np.array([1.0, 0.5]), verbose=0
    ).history
    mask = model.predict(image, verbose=0)
    assert history["val_loss"][0] == pytest.approx(float(tl_unet.DiceLoss()(masks, mask)), rel=1e-4)
    iou = tl_unet.IoU()
    iou.update_state(masks, mask)
    assert history["val_iou"][0] == pytest.approx(float(iou.result()), rel=1e-4)


def test_it_is_loaded_in_a_fresh_process_and_goes_on_training(tmp_path, image, masks):
    model = compiled(supervised(weight=0.5), run_eagerly=False)  # the file says so
    model.fit(image, masks, verbose=0)
    model.save(tmp_path / "model.keras")
    np.savez(
        tmp_path / "data.npz", image=image, masks=masks, expected=model.predict(image, verbose=0)
    )
    code = """if True:
        import sys, keras, numpy as np, tl_unet
        model, data = keras.saving.load_model(sys.argv[1]), np.load(sys.argv[2])
        np.testing.assert_allclose(model.predict(data["image"], verbose=0), data["expected"], atol=1e-6)
        assert len(model(data["image"], training=True)) == 3
        assert model.get_layer("auxiliary_masks").weight == 0.5
        assert "iou" in model.fit(data["image"], data["masks"], verbose=0).history
    """
    files = [str(tmp_path / name) for name in ("model.keras", "data.npz")]
    subprocess.run([sys.executable, "-c", code, *files], check=True)


def test_stripped_it_is_a_plain_model_of_the_same_masks_and_weights(tmp_path, image):
    model = supervised("unet3plus", classes=3)
    plain = tl_unet.strip_auxiliary(model)
    assert not isinstance(plain, DeeplySupervised)
    assert tl_unet.strip_auxiliary(plain) is plain
    np.testing.assert_array_equal(numbers(plain(image)), numbers(model(image)))
    heads = [layer for layer in model.layers if layer.name.startswith("auxiliary")]
    assert not {layer.name for layer in heads} & {layer.name for layer in plain.layers}
    # A 1x1 convolution to three classes from the four resolutions' channels of the two inner stages.
    added = sum(3 * channels + 3 for channels in (4 * 16, 4 * 12))
    assert model.count_params() - plain.count_params() == added
    assert decoder_weights(plain)[0] is decoder_weights(model)[0]
    plain.save(tmp_path / "plain.keras")
    loaded = keras.saving.load_model(tmp_path / "plain.keras")
    np.testing.assert_array_equal(numbers(loaded(image)), numbers(plain(image)))


def test_without_it_the_model_is_plain_and_has_the_same_decoder():
    plain, model = supervised(weight=False), supervised()
    assert not isinstance(plain, DeeplySupervised)
    assert plain.count_params() == tl_unet.strip_auxiliary(model).count_params()


def test_unfreezing_keeps_it_deeply_supervised(image, masks):
    model = compiled(supervised())
    tl_unet.unfreeze_encoder(tl_unet.freeze_encoder(model), stages=1)
    model.fit(image, masks, verbose=0)
    assert len(model(image, training=True)) == 3


def test_the_decoder_of_a_split_model_is_deeply_supervised_too(image, masks):
    model = tl_unet.freeze_encoder(compiled(supervised(weight=0.5)))
    encoder, decoder = tl_unet.split_model(model)
    assert isinstance(decoder, DeeplySupervised)
    features = encoder(image)
    expected, found = model(image, training=True), decoder(features, training=True)
    assert len(expected) == len(found) == 3
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(numbers(b), numbers(a), atol=1e-6)
    np.testing.assert_allclose(numbers(decoder(features)), numbers(model(image)), atol=1e-6)
    logs = [
        one.train_on_batch(x, masks, return_dict=True)
        for one, x in ((model, image), (compiled(decoder), features))
    ]
    assert logs[1]["loss"] < logs[0]["loss"]  # the second step of the same weights
    assert len(model(image, training=True)) == 3


def test_training_on_cached_features_trains_the_auxiliary_heads(image, masks):
    def frozen():
        return tl_unet.freeze_encoder(supervised(weight=0.5))

    model, other = frozen(), frozen()
    losses = compiled(model).fit(image, masks, epochs=2, verbose=0).history["loss"]
    decoder, features = tl_unet.cache_features(other, (image, masks), verbose=0)
    found = compiled(decoder).fit(features, epochs=2, verbose=0).history["loss"]
    np.testing.assert_allclose(found, losses, atol=1e-5)
    for a, b in zip(model.weights, other.weights, strict=True):
        np.testing.assert_allclose(numbers(b), numbers(a), atol=1e-5, err_msg=a.path)
    assert tl_unet.feature_bytes(other, (32, 32)) > 0


@pytest.mark.parametrize("encoder_only", [False, True])
@pytest.mark.parametrize("is_compiled", [False, True])
def test_folding_keeps_it(encoder_only, is_compiled, image, masks):
    model = tl_unet.freeze_encoder(supervised(normalization="batch"))
    if is_compiled:
        compiled(model)
    folded = tl_unet.fold_batch_norm(model, encoder_only=encoder_only)
    assert isinstance(folded, DeeplySupervised)
    assert not folded.compiled
    assert folded.output_shape == model.output_shape
    np.testing.assert_allclose(numbers(folded(image)), numbers(model(image)), atol=1e-4)
    assert len(folded(image, training=True)) == 3
    assert set(compiled(folded).fit(image, masks, verbose=0).history) == {"loss", "iou"}


def test_inside_another_model_it_warns_that_the_auxiliary_masks_will_not_train(image):
    model = supervised()
    with pytest.warns(UserWarning, match="auxiliary masks won't train"):
        keras.Sequential([keras.Input((32, 32, 3)), keras.layers.RandomFlip(), model])
    with pytest.warns(UserWarning, match="strip_auxiliary"):
        model(keras.Input((32, 32, 3)))


def test_too_few_resolutions_for_it_are_an_error():
    with pytest.raises(ValueError, match="too few resolutions"):
        build("unetplusplus", depth=2, encoder_depth=2, deep_supervision=True)
