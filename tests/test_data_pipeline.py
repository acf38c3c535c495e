"""Decoding, caching, order and batching, as every data source has them."""

import gc
import io
import re
import time
import types
import weakref

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tl_unet.data import Subset, augmentation, image_mask_dataset, pipeline, shapes
from tl_unet.data.decoding import decode_image, decode_mask
from tl_unet.data.labels import LabelTable
from tl_unet.data.pipeline import build_subset, load_pair


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def numbered(count=7, calls=None, **options):
    """A subset whose picture i is i everywhere; `calls` collects what is loaded."""

    def load(index):
        if calls is not None:
            calls.append(int(index))
        return np.full((4, 6, 3), index, np.uint8), np.full((4, 6, 1), index % 2, np.uint8)

    defaults = {
        "size": (4, 6),
        "channels": 3,
        "classes": 1,
        "batch_size": 3,
        "seed": 0,
        "shuffle": False,
        "augment": False,
    }
    return build_subset([f"n{i}" for i in range(count)], load, **{**defaults, **options})


def order(dataset):
    return [int(value) for image, _ in dataset for value in image.numpy()[:, 0, 0, 0]]


@pytest.mark.parametrize("cache", ["memory", "files", "none"])
def test_order_is_that_of_names_and_the_last_batch_is_kept(cache, tmp_path):
    kind = {"memory": True, "files": tmp_path, "none": False}[cache]
    subset = numbered(cache=kind)
    assert isinstance(subset, Subset)
    assert [f"n{i}" for i in order(subset.dataset)] == subset.names
    assert [len(image) for image, _ in subset.dataset] == [3, 3, 1]
    assert subset.dataset.cardinality() == 3
    assert subset.dataset.element_spec[0].shape.as_list() == [None, 4, 6, 3]


def test_memory_cache_loads_each_picture_once():
    calls = []
    subset = numbered(calls=calls)
    order(subset.dataset), order(subset.dataset)
    assert sorted(calls) == list(range(7))


@pytest.mark.parametrize("cache", ["memory", "files", "none"])
def test_what_a_data_set_holds_is_freed_with_the_last_that_reads_it(cache, tmp_path, monkeypatch):
    readers = []

    class Spy(pipeline.Reader):
        def __init__(self, read):
            super().__init__(read)
            readers.append(weakref.ref(self))

    monkeypatch.setattr(pipeline, "Reader", Spy)

    def load(index):
        return np.full((4, 6, 3), index, np.uint8), np.zeros((4, 6, 1), np.uint8)

    options = {"size": (4, 6), "channels": 3, "classes": 1, "batch_size": 2, "seed": 0}
    options |= {"shuffle": True, "augment": True}
    options["cache"] = {"memory": True, "files": tmp_path, "none": False}[cache]
    derived = [
        lambda data: data.repeat().skip(1).take(2),
        lambda data: tf.data.Dataset.zip(data, data.map(lambda image, mask: image)),
        lambda data: data.concatenate(data),
        lambda data: tf.data.Dataset.sample_from_datasets([data, data]),
        lambda data: tf.data.Dataset.range(2).flat_map(lambda i: data),
        iter,
    ]
    for derive in derived:
        subset = build_subset(list("abc"), load, **options)
        data = derive(subset.dataset)
        del subset
        gc.collect()
        assert len(list(data)) > 0
        del data
        gc.collect()
        assert readers.pop()() is None


def test_files_that_the_disk_cannot_hold_are_not_begun(tmp_path, monkeypatch):
    needed = 7 * 4 * 6 * 4
    for free, enough in ((needed - 1, False), (needed, True)):
        monkeypatch.setattr(
            "shutil.disk_usage", lambda path, free=free: types.SimpleNamespace(free=free)
        )
        if enough:
            assert len(order(numbered(cache=tmp_path).dataset)) == 7
        else:
            with pytest.raises(OSError, match="GB are free"):
                numbered(cache=tmp_path)
            assert not list(tmp_path.iterdir())


def test_without_cache_pictures_are_checked_once_and_loaded_in_each_epoch():
    calls = []
    subset = numbered(calls=calls, cache=False)
    assert len(calls) == 7
    order(subset.dataset), order(subset.dataset)
    assert len(calls) == 21
    calls.clear()
    numbered(calls=calls, cache=False, verify=False)
    assert not calls


def test_file_cache_is_used_again_and_only_for_the_same_data(tmp_path):
    calls = []
    numbered(calls=calls, cache=tmp_path)
    assert order(numbered(calls=calls, cache=tmp_path).dataset) == list(range(7))
    assert len(calls) == 7
    numbered(calls=calls, cache=tmp_path, identity="something else")
    assert len(calls) == 14
    assert {file.suffix for file in tmp_path.iterdir()} == {".npy"}


def test_failed_loading_leaves_no_cache_files(tmp_path):
    def load(index):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="2 problems in the data set:\n  a: broken\n  b: broken"):
        build_subset(
            ["a", "b"],
            load,
            size=(4, 4),
            channels=3,
            classes=1,
            batch_size=1,
            seed=0,
            shuffle=False,
            augment=False,
            cache=tmp_path,
        )
    assert not list(tmp_path.iterdir())


@settings(max_examples=10)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 1000))
def test_shuffling_is_a_new_permutation_each_epoch_and_repeats_with_the_seed(count, size, seed):
    first, again = (numbered(count, batch_size=size, seed=seed, shuffle=True) for _ in range(2))
    epochs = [order(first.dataset) for _ in range(3)]
    assert epochs == [order(again.dataset) for _ in range(3)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    if count > 20:
        assert epochs[0] != epochs[1]


def test_tensorflows_tuning_is_off():
    # It can hold the end of a pass back, but only on a busy machine and not always.
    assert numbered().dataset.options().autotune.enabled is False


def test_masks_are_float_for_one_class_and_indices_for_more():
    assert next(iter(numbered().dataset))[1].dtype == tf.float32
    assert next(iter(numbered(classes=2).dataset))[1].dtype == tf.int32


def test_augment_changes_images_and_takes_a_callable():
    plain = next(iter(shapes(4, size=32).dataset))[0].numpy()
    changed = next(iter(shapes(4, size=32, augment=True).dataset))[0].numpy()
    grey = next(iter(shapes(4, size=32, channels=1, augment=True).dataset))[0]
    own = next(iter(shapes(4, size=32, augment=lambda image, mask: (image * 0, mask)).dataset))[0]
    assert np.abs(plain - changed).max() > 10
    spec = shapes(4, size=(32, 48), augment=True).dataset.element_spec
    assert [part.shape.as_list() for part in spec] == [[None, 32, 48, 3], [None, 32, 48, 1]]
    assert grey.shape == (4, 32, 32, 1)
    assert not own.numpy().any()
    with pytest.raises(TypeError, match="augment"):
        shapes(4, size=32, augment="strong")


def test_augmented_epochs_repeat_with_the_seed():
    runs = []
    for _ in range(2):
        dataset = shapes(
            6, size=32, batch_size=2, shuffle=True, augment=augmentation(seed=3)
        ).dataset
        runs.append([[part.numpy() for part in batch] for _ in range(2) for batch in dataset])
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    assert np.abs(runs[0][0][0] - runs[0][3][0]).max() > 10


def test_a_look_at_a_batch_leaves_what_follows_to_the_seed():
    # What it had begun to make beyond that batch is a matter of time.
    epochs = []
    for wait in (0, 0.2):
        dataset = shapes(12, size=32, batch_size=1, augment=True).dataset
        look = iter(dataset)
        next(look)
        time.sleep(wait)
        del look
        epochs.append([image.numpy() for image, _ in dataset])
    np.testing.assert_array_equal(*epochs)


def test_a_callable_with_a_seed_gets_another_one_for_each_batch_and_pass():
    def augment(images, masks, seed):
        first, second = tf.unstack(seed)  # its shape is known
        return images, tf.stack([[first, second]])

    def seeds(number):
        dataset = shapes(5, size=32, batch_size=1, seed=number, augment=augment).dataset
        return [tuple(seed.numpy()[0]) for _ in range(2) for _, seed in dataset]

    assert seeds(1) == seeds(1)
    assert len(set(seeds(1))) == 10
    assert not set(seeds(1)) & set(seeds(2))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGB", "PNG"),
        ("RGB", "GIF"),
        ("RGB", "BMP"),
        ("RGB", "TIFF"),
        ("RGB", "WEBP"),
        ("RGBA", "PNG"),
        ("L", "PNG"),
        ("P", "PNG"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("1", "PNG"),
    ],
)
def test_every_format_and_colour_mode_becomes_rgb(mode, kind):
    # White, black: the two colours that survive every mode.
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 8:] = 255
    data = encoded(Image.fromarray(pixels).convert(mode), kind)
    image = np.asarray(decode_image(data))
    assert image.shape == (16, 16, 3)
    assert np.abs(image.astype(int) - pixels).max() <= 4


def test_sixteen_bit_grey_is_scaled_not_clipped():
    pixels = np.array([[0, 257 * 100, 65535]], np.uint16)
    image = np.asarray(decode_image(encoded(Image.fromarray(pixels)), channels=1))
    np.testing.assert_array_equal(image, [[0, 100, 255]])


def sixteen_bits(highest, mode="I;16"):
    pixels = np.linspace(0, highest, 64).astype("uint16" if mode == "I;16" else "int32")
    return Image.fromarray(pixels.reshape(8, 8))


def test_pictures_of_12_bits_in_16_are_told_once_a_data_set(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(6):
        sixteen_bits(4095).save(tmp_path / "images" / f"scan_{i}.png")
        Image.new("L", (8, 8), 1).save(tmp_path / "masks" / f"scan_{i}.png")
    with pytest.warns(UserWarning, match="12-bit") as told:
        subset = image_mask_dataset(tmp_path / "images", tmp_path / "masks", size=8)
    (text,) = [str(warning.message) for warning in told if "12-bit" in str(warning.message)]
    assert re.search(r"scan_\d\.png: its 16-bit values reach only 4095\..* 16 grey levels", text)
    assert float(np.max(next(iter(subset.dataset))[0])) == 15  # told, and not guessed


@pytest.mark.parametrize("highest", [0, 16 * 257, 65535])
def test_the_full_range_of_16_bits_and_black_are_not_told(highest, recwarn):
    decode_image(encoded(sixteen_bits(highest)), channels=1)
    assert not [w for w in recwarn if "grey levels" in str(w.message)]


@pytest.mark.parametrize(("highest", "advice"), [(255, "8-bit PNG"), (256, "full range")])
@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_whole_numbers_that_would_become_black_are_an_error(highest, advice, mode):
    data = encoded(sixteen_bits(highest, mode), "TIFF")
    with pytest.raises(ValueError, match=f"reach only {highest}.*black.*{advice}"):
        decode_image(data, channels=1)


def test_exif_orientation_is_respected_unless_the_stored_pixels_count():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    data = encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif)
    assert decode_image(data).size == (10, 20)
    assert decode_image(data, orient=False).size == (20, 10)


def test_masks_keep_their_numbers():
    indices = np.array([[0, 1, 5]], np.uint8)
    palette = Image.fromarray(indices)
    palette.putpalette([9, 9, 9, 255, 0, 0] + [40] * 200)
    assert palette.mode == "P"
    np.testing.assert_array_equal(decode_mask(encoded(palette)), indices)
    deep = np.array([[0, 1000, 65535]], np.uint16)
    np.testing.assert_array_equal(decode_mask(encoded(Image.fromarray(deep), "TIFF")), deep)
    grey = Image.fromarray(np.repeat(indices[..., None], 3, -1))
    np.testing.assert_array_equal(decode_mask(encoded(grey)), indices)
    np.testing.assert_array_equal(decode_mask(encoded(Image.new("1", (2, 1), 1))), [[1, 1]])
    with pytest.raises(ValueError, match="colour picture"):
        decode_mask(encoded(Image.new("RGB", (2, 2), (255, 0, 0))))
    with pytest.raises(ValueError, match="fractions"):
        decode_mask(encoded(Image.new("F", (2, 2), 0.5), "TIFF"))
    whole = Image.new("F", (2, 2), 7)
    np.testing.assert_array_equal(decode_mask(encoded(whole, "TIFF")), np.full((2, 2), 7))


@settings(max_examples=25)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 50), st.integers(1, 50))
def test_resizing_a_mask_invents_no_value_and_follows_the_image(height, width, new_h, new_w):
    rng = np.random.default_rng(0)
    mask = rng.choice(np.array([0, 3, 200], np.uint8), (height, width))
    image = np.repeat((mask == 3)[..., None] * np.uint8(255), 3, -1)
    table = LabelTable({0: 0, 3: 1, 200: 255})
    pixels, classes = load_pair(
        encoded(Image.fromarray(image)), encoded(Image.fromarray(mask)), (new_h, new_w), table
    )
    assert pixels.shape == (new_h, new_w, 3)
    assert set(np.unique(classes)) <= {0, 1, 255}
    if (new_h, new_w) == (height, width):
        np.testing.assert_array_equal(pixels[..., :1] == 255, classes == 1)


@pytest.mark.parametrize("part", [np.s_[:, 3:], np.s_[:, :5], np.s_[2:], np.s_[:7]])
def test_enlarged_image_and_mask_keep_their_edges_together(part):
    mask = np.zeros((8, 8), np.uint8)
    mask[part] = 1
    image = np.repeat(mask[..., None] * np.uint8(255), 3, -1)
    pixels, classes = load_pair(
        encoded(Image.fromarray(image)), encoded(Image.fromarray(mask)), (32, 32), LabelTable()
    )
    assert ((pixels[..., :1] > 127) == (classes == 1)).all()


# Label tables

values = st.integers(0, 65535)


@given(st.dictionaries(values, st.integers(0, 254), min_size=1, max_size=8))
def test_a_label_table_maps_every_listed_value_and_nothing_else(labels):
    table = LabelTable(labels)
    mask = np.array([list(labels)])
    np.testing.assert_array_equal(table(mask), [list(labels.values())])
    stray = next(value for value in range(65536) if value not in labels)
    with pytest.raises(ValueError, match=f"unexpected mask value {stray};"):
        table(np.append(mask, [[stray]], 1))
    top = max(labels.values())
    assert table.classes == (1 if top <= 1 else top + 1)


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=6, unique=True))
def test_colours_map_by_their_position(colours):
    table = LabelTable(colours)
    mask = Image.fromarray(np.array([colours], np.uint8))
    got = table(decode_mask(encoded(mask), colours=table.colours))
    np.testing.assert_array_equal(got, [range(len(colours))])


def test_plain_masks_are_zero_one_or_zero_255_but_not_both():
    table = LabelTable()
    np.testing.assert_array_equal(table(np.array([[0, 1]])), [[0, 1]])
    np.testing.assert_array_equal(table(np.array([[0, 255]])), [[0, 1]])
    with pytest.raises(ValueError, match="1 and 255"):
        table(np.array([[0, 1, 255]]))
    with pytest.raises(ValueError, match=r"128; expected 0, 1, 255\. Give `labels`"):
        table(np.array([[0, 128]]))
    with pytest.raises(ValueError, match="JPEG"):
        table(np.arange(40)[None])


def test_plain_masks_of_several_classes_are_indices_with_255_ignored():
    np.testing.assert_array_equal(LabelTable(classes=4)(np.array([[0, 3, 255]])), [[0, 3, 255]])
    with pytest.raises(ValueError, match="unexpected mask value 4"):
        LabelTable(classes=4)(np.array([[4]]))


def test_none_stands_for_values_outside_the_table_too():
    mask = np.array([[0, 1, -9999, 70000]], "int32")
    assert LabelTable({0: 0, 1: 1, None: 255})(mask).tolist() == [[0, 1, 255, 255]]
    with pytest.raises(ValueError, match="-9999"):
        LabelTable({0: 0, 1: 1})(mask)


def test_none_stands_for_every_other_value():
    np.testing.assert_array_equal(LabelTable({7: 1, None: 0})(np.array([[7, 8, 900]])), [[1, 0, 0]])


@pytest.mark.parametrize(
    ("labels", "classes", "words"),
    [
        ({0: 0, 1: 300}, None, "classes 0..254"),
        ([], None, "classes 0..254"),
        ({0: 0, 1: 5}, 3, "only 0..2"),
        ({0: 0, 1: 2}, 1, "only 0 and 1"),
        ({0: 0, (1, 2, 3): 1}, None, "keys of `labels`"),
        ({-1: 0}, None, "keys of `labels`"),
        ({(1, 2): 0}, None, "keys of `labels`"),
        ({0.5: 0}, None, "keys of `labels`"),
        (None, 0, "classes"),
    ],
)
def test_contradictory_labels_are_refused(labels, classes, words):
    with pytest.raises(ValueError, match=words):
        LabelTable(labels, classes)
