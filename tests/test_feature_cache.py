"""`cache_features` and `split_model`: the decoder learns on features that were computed once."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY, tiny_backbone, tiny_unet

import tl_unet
from tl_unet.data import augmentation
from tl_unet.feature_cache import fingerprint
from tl_unet.feature_store import FolderStore, MemoryStore

SIDES = (33, 40)
SMALL = tl_unet.EncoderSpec(
    name="small", builder=tiny_backbone, taps=TINY.taps[:2], preprocessing="tf"
)


def arrays(count=6, sides=SIDES, seed=0):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, *sides, 3)).astype("float32")
    return images, (images[..., :1] > 128).astype("float32")


def small_unet(**options):
    return tiny_unet(encoder=SMALL, decoder_filters=(4, 4), **options)


def frozen(seed=0, **options):
    keras.utils.set_random_seed(seed)
    return tl_unet.freeze_encoder(small_unet(**options))


def fit(model, data, epochs=2, **options):
    model.compile(keras.optimizers.SGD(0.1), tl_unet.DiceLoss(), run_eagerly=True)
    return model.fit(data, epochs=epochs, shuffle=False, verbose=0, **options).history["loss"]


class Batches(keras.utils.PyDataset):
    def __init__(self, *arrays, size=2):
        super().__init__()
        self.arrays, self.size = arrays, size

    def __len__(self):
        return -(-len(self.arrays[0]) // self.size)

    def __getitem__(self, index):
        return tuple(a[index * self.size : (index + 1) * self.size] for a in self.arrays)


def tf_batches(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(2)


# Splitting


@pytest.mark.parametrize(
    "options",
    [{}, {"input_skip": True}, {"input_shape": (64, 32, 3)}, {"input_shape": (None, None, 1)}],
)
def test_the_parts_compute_what_the_model_does_at_any_size(options):
    model = small_unet(**options)
    height, width, channels = model.input_shape[1:]
    encoder, decoder = tl_unet.split_model(model)
    for sides in [(height, width)] if height else [(64, 64), (45, 70), (31, 1)]:
        image = np.random.default_rng(0).uniform(0, 255, (2, *sides, channels)).astype("float32")
        mask = decoder(encoder(image))
        assert mask.shape[1:3] == sides
        np.testing.assert_allclose(mask, model(image), atol=1e-6)


def test_the_parts_share_the_layers_of_the_model():
    model = frozen()
    encoder, decoder = tl_unet.split_model(model)
    assert not encoder.trainable_weights
    assert {id(w) for w in decoder.weights} == {id(w) for w in model.trainable_weights}


def test_a_model_can_be_split_again_after_saving_and_loading(tmp_path):
    model = small_unet()
    model.compile("adam", tl_unet.DiceLoss())
    tl_unet.split_model(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    encoder, decoder = tl_unet.split_model(loaded)
    decoder.save(tmp_path / "decoder.keras")
    decoder = keras.saving.load_model(tmp_path / "decoder.keras")
    image, _ = arrays(1)
    np.testing.assert_allclose(decoder(encoder(image)), model(image), atol=1e-6)


def test_only_a_unet_is_split():
    with pytest.raises(ValueError, match="no layer named 'encoder'"):
        tl_unet.split_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    with pytest.raises(TypeError, match="functional"):
        tl_unet.split_model(keras.Sequential([keras.layers.Dense(1)]))


# The same result


@pytest.mark.parametrize("kind", [tf_batches, Batches])
def test_training_on_cached_features_is_training_the_model(kind):
    options = {"dropout": 0.2, "normalization": "batch", "input_skip": True}
    data = kind(*arrays(4))
    model, other = frozen(**options), frozen(**options)
    keras.utils.set_random_seed(1)
    losses = fit(model, data)
    decoder, features = tl_unet.cache_features(other, data, verbose=0)
    keras.utils.set_random_seed(1)
    np.testing.assert_allclose(fit(decoder, features), losses, atol=1e-5)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "error"), [("float32", 1e-6), ("float16", 1e-3), ("bfloat16", 8e-3)]
)
@pytest.mark.parametrize("kind", [tf_batches, Batches])
def test_features_are_those_of_the_encoder_to_the_precision_of_the_dtype(dtype, error, kind):
    model = frozen()
    images, masks = arrays(3)
    cache = tl_unet.FeatureCache(model, dtype=dtype)
    data = cache.add(kind(images, masks), verbose=0).apply(kind(images, masks))
    encoder, _ = tl_unet.split_model(model)
    *expected, _ = encoder(images)
    (*features, same), mask = next(iter(data)) if kind is tf_batches else data[0]
    np.testing.assert_array_equal(same, images[:2])
    np.testing.assert_array_equal(mask, masks[:2])
    for a, b in zip(expected, features, strict=True):
        a, b = np.asarray(a)[:2], np.asarray(b).astype("float32")
        np.testing.assert_allclose(b, a, rtol=error, atol=1e-6)
    assert cache.nbytes == 3 * tl_unet.feature_bytes(model, SIDES, dtype)


def test_a_shuffled_data_set_keeps_images_and_masks_together():
    images, masks = arrays(8)
    data = tf.data.Dataset.from_tensor_slices((images, masks)).shuffle(8, seed=0).batch(3)
    model = frozen()
    _, features = tl_unet.cache_features(model, data, verbose=0)
    assert features.options().autotune.enabled is False  # as in tl_unet.data
    encoder, _ = tl_unet.split_model(model)
    orders = []
    for _ in range(2):
        for (*maps, image), mask in features:
            np.testing.assert_array_equal(mask, image[..., :1].numpy() > 128)
            np.testing.assert_allclose(maps[0], encoder(image)[0], atol=1e-5)
        orders.append(image.numpy()[0])
    assert not np.array_equal(*orders)


def test_sample_weights_are_handed_on():
    images, masks = arrays(2)
    weights = np.array([0.25, 4.0], "float32")
    decoder, features = tl_unet.cache_features(frozen(), Batches(images, masks, weights), verbose=0)
    np.testing.assert_array_equal(features[0][2], weights)


def test_predictions_of_arrays_are_in_their_order():
    images, masks = arrays(5)
    model = frozen()
    decoder, features = tl_unet.cache_features(model, (images, masks), batch_size=2, verbose=0)
    expected = keras.ops.convert_to_numpy(model(images))
    decoder.compile(loss=tl_unet.DiceLoss())
    decoder.evaluate(features, verbose=0)
    for _ in range(2):
        found = decoder.predict(features, verbose=0)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_arrays_to_train_on_are_shuffled_in_each_epoch_if_asked():
    _, features, valid = tl_unet.cache_features(
        frozen(), arrays(5), arrays(5), batch_size=2, shuffle=True, verbose=0
    )
    assert len(features) == 3
    first = features[0][1]
    orders = set()
    for _ in range(5):
        features.on_epoch_end()
        orders.add(features[0][1].tobytes())
    assert len(orders) > 1
    assert features[0][1].shape == first.shape
    before = valid[0][1]
    valid.on_epoch_end()
    np.testing.assert_array_equal(valid[0][1], before)


def test_images_of_several_sizes_are_cached_together():
    small, large = arrays(2), arrays(2, (64, 50))

    class Two(Batches):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return (small, large)[index]

    decoder, features = tl_unet.cache_features(frozen(), Two(None), verbose=0)
    for index, (images, _) in enumerate((small, large)):
        assert decoder(features[index][0]).shape[1:3] == images.shape[1:3]


def test_several_data_sets_share_images():
    cache = tl_unet.FeatureCache(frozen())
    images, masks = arrays(4)
    cache.add((images, masks), verbose=0)
    bytes_before = cache.nbytes
    cache.add((images[::-1], masks[::-1]), verbose=0)
    assert (len(cache), cache.nbytes) == (4, bytes_before)


# What can't be cached


def test_augmented_images_are_refused_at_the_start():
    noisy = tf_batches(*arrays(4)).map(augmentation(seed=0))
    with pytest.raises(ValueError, match="augmentation"):
        tl_unet.cache_features(frozen(), noisy, verbose=0)


def test_an_unfrozen_encoder_is_refused():
    with pytest.raises(ValueError, match="not frozen"):
        tl_unet.cache_features(small_unet(), arrays(2), verbose=0)


def test_an_encoder_that_has_changed_since_is_refused():
    model = frozen()
    cache = tl_unet.FeatureCache(model).add(arrays(2), verbose=0)
    tl_unet.unfreeze_encoder(model)
    with pytest.raises(ValueError, match="not frozen"):
        cache.apply(arrays(2))
    tl_unet.freeze_encoder(model)
    encoder = model.get_layer("encoder")
    encoder.set_weights([w + 1 for w in encoder.get_weights()])
    with pytest.raises(ValueError, match="have changed"):
        cache.apply(arrays(2))


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.GaussianNoise(1.0),
        keras.layers.RandomBrightness(0.2),
        keras.layers.RandomFlip(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_random_layer_in_front_is_refused(layer):
    model = frozen()
    image = keras.Input((32, 32, 3))
    features = model.get_layer("encoder")(layer(image))
    with pytest.raises(ValueError, match="random"):
        tl_unet.FeatureCache(keras.Model(image, keras.layers.ReLU()(features[0])))


def test_an_unknown_image_is_reported():
    cache = tl_unet.FeatureCache(frozen()).add(arrays(2), verbose=0)
    with pytest.raises(ValueError, match="2 of 2 images"):
        cache.apply(Batches(*arrays(2, seed=1)))[0]
    with pytest.raises(tf.errors.OpError, match="2 of 2 images"):
        next(iter(cache.apply(tf_batches(*arrays(2, seed=1)))))


def test_a_cache_is_freed_with_the_data_set_that_reads_it():
    cache = tl_unet.FeatureCache(frozen()).add(arrays(2), verbose=0)
    data, alive = cache.apply(tf_batches(*arrays(2))), weakref.ref(cache)
    del cache
    gc.collect()
    assert len(list(data)) > 0
    del data
    gc.collect()
    assert alive() is None


def test_an_endless_data_set_is_refused():
    with pytest.raises(ValueError, match="endless"):
        tl_unet.cache_features(frozen(), tf_batches(*arrays(2)).repeat(), verbose=0)


def test_what_is_cached_may_be_repeated_without_end():
    class Endless(Batches):
        num_batches = None

        def __getitem__(self, index):
            return super().__getitem__(0)

    model, data = frozen(), arrays(2)
    cache = tl_unet.FeatureCache(model).add(Batches(*data), verbose=0)
    features = cache.apply(Endless(*data))
    decoder = cache.decoder
    decoder.compile("sgd", tl_unet.DiceLoss(), jit_compile=False)
    history = decoder.fit(features, steps_per_epoch=3, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_what_is_no_data_set_is_refused():
    with pytest.raises(TypeError, match="PyDataset"):
        tl_unet.cache_features(frozen(), iter([arrays(2)]), verbose=0)
    with pytest.raises(ValueError, match="as many masks"):
        tl_unet.cache_features(frozen(), (arrays(2)[0], arrays(3)[1]), verbose=0)


def test_features_that_would_take_too_much_space_are_refused_before_the_first_is_kept():
    model, data = frozen(), Batches(*arrays(6))
    needed = 6 * tl_unet.feature_bytes(model, SIDES)
    # At least five, as far as the first batch tells: a last one may be smaller.
    for most, kept in ((needed * 5 // 6 - 1, 0), (needed - 1, 4)):
        cache = tl_unet.FeatureCache(model, max_bytes=most)
        with pytest.raises(ValueError, match=r"would take about .* Use dtype='float16'"):
            cache.add(data, verbose=0)
        assert len(cache) == kept
    assert len(tl_unet.FeatureCache(model, max_bytes=needed).add(data, verbose=0)) == 6
    # A last batch that is smaller is not taken for a whole one.
    data, needed = Batches(*arrays(5)), 5 * tl_unet.feature_bytes(model, SIDES)
    assert len(tl_unet.FeatureCache(model, max_bytes=needed).add(data, verbose=0)) == 5


def test_values_beyond_float16_are_refused():
    model = frozen()
    encoder = model.get_layer("encoder")
    encoder.set_weights([w * 1e3 for w in encoder.get_weights()])
    with pytest.raises(ValueError, match="use dtype='bfloat16'"):
        tl_unet.cache_features(model, arrays(2), dtype="float16", verbose=0)


# On disk


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "features"


def test_a_folder_is_used_by_the_next_run(folder):
    data = Batches(*arrays())
    first = tl_unet.FeatureCache(frozen(), directory=folder, dtype="bfloat16").add(data, verbose=0)
    second = tl_unet.FeatureCache(frozen(), directory=folder, dtype="bfloat16")
    assert (len(second), second.nbytes) == (6, first.nbytes)
    files = sorted((path, path.stat().st_mtime_ns) for path in folder.iterdir())
    read = second.add(data, verbose=0).apply(data)[1]
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.iterdir()) == files
    for a, b in zip(read[0], first.apply(data)[1][0], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("other", [{"seed": 1}, {"preprocessing": "rescale"}])
def test_a_folder_of_another_encoder_or_preprocessing_is_refused(folder, other):
    tl_unet.FeatureCache(frozen(), directory=folder).add(arrays(2), verbose=0)
    with pytest.raises(ValueError, match="this model did not compute"):
        tl_unet.FeatureCache(frozen(**other), directory=folder)
    with pytest.raises(ValueError, match="dtype was 'float32'"):
        tl_unet.FeatureCache(frozen(), directory=folder, dtype="float16")


def test_a_folder_whose_data_are_missing_is_refused(folder):
    tl_unet.FeatureCache(frozen(), directory=folder).add(arrays(2), verbose=0)
    (data,) = folder.glob("*.bin")
    data.write_bytes(b"")
    with pytest.raises(ValueError, match="shorter than its index"):
        tl_unet.FeatureCache(frozen(), directory=folder)


def test_an_index_that_cannot_be_read_is_told(folder):
    store = FolderStore(folder, "float32", {})
    store.add(["a", "b"], [np.zeros((2, 1, 1, 1))])
    (index,) = folder.glob("*.jsonl")
    header, first, second = index.read_text().splitlines()
    index.write_text("\n".join([header, "\0" * len(first), second, ""]))
    with pytest.raises(ValueError, match="cannot be read .*delete the folder"):
        FolderStore(folder, "float32", {})


def test_a_folder_whose_header_alone_was_written_begins_anew(folder):
    store = FolderStore(folder, "float32", {"encoder": "x"})
    store.add(["a"], [np.zeros((1, 1, 1, 1))])
    (index,) = folder.glob("*.jsonl")
    index.write_text(index.read_text()[:5])
    store = FolderStore(folder, "float32", {"encoder": "x"})
    assert len(store) == 0
    store.add(["a"], [np.ones((1, 1, 1, 1))])
    assert records(FolderStore(folder, "float32", {"encoder": "x"}), ["a"]) == [[[[[1.0]]]]]


def test_several_may_add_to_a_folder_at_the_same_time(folder):
    one, other = (FolderStore(folder, "float32", {}) for _ in range(2))

    def maps(value):
        return [np.full((1, 2, 2, 1), value)]

    one.add(["a"], maps(1))
    other.add(["b"], maps(2))
    one.add(["c", "both"], [np.full((2, 2, 2, 1), 3)])
    reader = FolderStore(folder, "float32", {})
    other.add(["d", "both"], [np.full((2, 2, 2, 1), 3)])
    values = {"a": 1, "b": 2, "c": 3, "both": 3, "d": 3}
    for store, keys in ((one, "ac"), (other, "bd"), (reader, "abc")):
        for key in [*keys, "both"]:
            assert (store.read([key])[0] == values[key]).all()
    assert "d" not in reader
    final = FolderStore(folder, "float32", {})
    assert len(final) == 5
    assert final.nbytes == 5 * 16


def records(store, keys):
    return [m.tolist() for m in store.read(keys)]


@settings(max_examples=20)
@given(st.data())
def test_whatever_an_interruption_cuts_off_the_rest_is_whole(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("store")
    store, memory = FolderStore(folder, "float16", {}), MemoryStore("float16")
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    random = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        keys = [f"{number}-{j}" for j in range(size)]
        maps = [random.normal(size=(size, 2, number + 1, 3)), random.normal(size=(size, 1, 1, 2))]
        store.add(keys, maps)
        memory.add(keys, maps)
    (index,), (bin_,) = folder.glob("*.jsonl"), folder.glob("*.bin")
    lines = index.read_bytes()
    end = data.draw(st.integers(0, len(lines)))
    index.write_bytes(lines[:end])  # an index is never ahead of its data
    bin_.write_bytes(bin_.read_bytes() + data.draw(st.binary(max_size=5)))
    again = FolderStore(folder, "float16", {})
    whole = max(0, lines[:end].count(b"\n") - 1)
    assert len(again) == whole
    assert again.nbytes == sum(m.nbytes for key in again._records for m in memory._records[key])
    for number, size in enumerate(sizes):
        for j in range(size):
            key = f"{number}-{j}"
            if key in again:
                assert records(again, [key]) == records(memory, [key])
            else:
                again.add([key], [m[None] for m in memory._records[key]])
    final = FolderStore(folder, "float16", {})
    assert len(final) == sum(sizes)
    assert records(final, ["0-0"]) == records(memory, ["0-0"])


@pytest.mark.parametrize(
    ("function", "calls"),
    [
        ("np.ascontiguousarray", 3),  # in the middle of the data
        ("os.fsync", 1),  # the data are there, their lines are not
        ("json.dumps", 2),  # in the middle of the lines
    ],
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_after_an_interruption_the_same_store_adds_and_reads_what_is_right(
    folder, monkeypatch, function, calls, error
):
    store, memory = FolderStore(folder, "float32", {}), MemoryStore("float32")
    random = np.random.default_rng(0)

    def add(names, *stores):
        maps = [
            random.normal(size=(len(names), 2, 3, 4)),
            random.normal(size=(len(names), 1, 1, 5)),
        ]
        for one in stores:
            one.add(list(names), maps)

    add("ab", store, memory)
    before = records(store, ["a", "b"])
    module, name = function.split(".")
    original = getattr(getattr(tl_unet.feature_store, module), name)
    left = [calls]

    def interrupted(*args, **kwargs):
        left[0] -= 1
        if not left[0]:
            raise error("stop")
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(f"tl_unet.feature_store.{function}", interrupted)
        with pytest.raises(error, match="stop"):
            add("cde", store)
    assert records(store, ["a", "b"]) == before
    assert "d" not in store
    add("fgh", store, memory)
    add("i", store, memory)
    for one in (store, FolderStore(folder, "float32", {})):
        assert records(one, list("abfghi")) == records(memory, list("abfghi"))
        assert one.nbytes == 4 * (2 * 3 * 4 + 5) * len(one)


def test_a_cache_that_was_interrupted_goes_on_with_the_right_features(folder, monkeypatch):
    images, masks = arrays()
    data = Batches(images, masks)
    model = frozen()
    cache = tl_unet.FeatureCache(model, directory=folder)

    def stop(descriptor):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tl_unet.feature_store.os.fsync", stop)
        with pytest.raises(KeyboardInterrupt):
            cache.add(data, verbose=0)
    cache.add(Batches(images[::-1].copy(), masks), verbose=0)
    again = tl_unet.FeatureCache(model, directory=folder)
    expected = tl_unet.FeatureCache(model).add(data, verbose=0).read(images)
    for found in (cache.read(images), again.read(images)):
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def test_a_fingerprint_does_not_depend_on_names_but_on_all_that_is_computed():
    one, two = (tl_unet.split_model(frozen())[0] for _ in range(2))
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint(one) != fingerprint(tl_unet.split_model(frozen(seed=3))[0])
    image = keras.Input((4, 4, 3))

    def model(x):
        return keras.Model(image, x)

    relu, tanh = keras.layers.ReLU(name="a")(image), keras.layers.Activation("tanh")(image)
    assert fingerprint(model(relu)) == fingerprint(model(keras.layers.ReLU(name="b")(image)))
    assert fingerprint(model(relu)) != fingerprint(model(tanh))
