"""Prediction in tiles and over changed views."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_unet import predict_augmented, predict_tiled
from tl_unet.inference import _blending, _positions, resolve_tiles


def pointwise():
    """A model that looks at single pixels: tiles cannot change what it says."""
    image = keras.Input((None, None, 3))
    mask = keras.layers.Conv2D(2, 1, activation="sigmoid", name="logits")(image)
    model = keras.Model(image, mask)
    model.get_layer("logits").set_weights(
        [np.array([[[[0.02, -0.01], [0.0, 0.01], [-0.02, 0.0]]]]), np.array([0.1, -0.2])]
    )
    return model


def blurring(reach=3):
    """A model whose masks depend on pixels up to `reach` away."""
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 1))
    mask = keras.layers.Conv2D(1, 2 * reach + 1, padding="same", activation="sigmoid")(image)
    return keras.Model(image, mask)


POINTWISE, BLURRING = pointwise(), blurring()


def picture(height, width, channels=3, seed=0):
    shape = (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape).astype("uint8")


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    tile=st.tuples(st.integers(4, 32), st.integers(4, 32)),
    share=st.floats(0, 0.5),
    batch_size=st.integers(1, 5),
)
def test_tiles_give_what_the_whole_image_gives(height, width, tile, share, batch_size):
    image = picture(height, width)
    overlap = int(share * min(tile))
    masks = predict_tiled(POINTWISE, image, tile, overlap, batch_size)
    whole = POINTWISE.predict_on_batch(image[None].astype("float32"))[0]
    assert masks.dtype == np.float32
    np.testing.assert_allclose(masks, whole, atol=1e-5)


@given(length=st.integers(1, 300), side=st.integers(1, 64), share=st.floats(0, 0.5))
def test_tiles_cover_every_pixel_and_their_weights_sum_to_one(length, side, share):
    side = min(side, length)
    overlap = int(share * side)
    starts = _positions(length, side, overlap)
    assert starts[0] == 0
    assert starts[-1] + side == length
    if len(starts) > 1:
        assert max(np.diff(starts)) <= max(1, side - overlap)
    total = np.zeros(length)
    for start, weight in zip(starts, _blending(starts, side, length), strict=True):
        assert (weight >= 0).all()
        total[start : start + side] += weight
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_away_from_tile_borders_a_network_with_a_field_of_view_gives_the_same():
    image = picture(96, 80, 1)
    whole = BLURRING.predict_on_batch(image[None].astype("float32"))[0]
    tiled = predict_tiled(BLURRING, image, tile_size=48, overlap=16)
    # What the first tile alone covers, beyond the reach of its neighbours' borders.
    assert np.abs(tiled - whole)[:24, :29].max() < 1e-5
    assert np.abs(tiled - whole).max() > 1e-3  # borders do matter: the test above tests something


def test_no_seams_at_the_borders_of_tiles():
    rows = np.linspace(0, 255, 200)
    image = np.tile(rows[:, None, None], (1, 160, 1)).astype("float32")
    tiled = predict_tiled(BLURRING, image / 255, tile_size=64, overlap=24)
    steps = np.abs(np.diff(tiled[8:-8, 8:-8, 0], axis=0))
    borders = _positions(200, 64, 24)[1:]
    at_borders = np.mean([steps[start - 9] for start in borders])
    assert at_borders <= 1.5 * steps.mean() + 1e-4


def test_the_output_may_be_a_file_and_the_image_one_too(tmp_path):
    image = np.memmap(tmp_path / "image.raw", "uint8", "w+", shape=(150, 90, 3))
    image[:] = picture(150, 90)
    target = np.memmap(tmp_path / "mask.raw", "float16", "w+", shape=(150, 90, 2))
    found = predict_tiled(POINTWISE, image, 64, 8, output=target)
    assert found is target
    np.testing.assert_allclose(target, predict_tiled(POINTWISE, image, 64, 8), atol=1e-3)
    with pytest.raises(ValueError, match="shape"):
        predict_tiled(POINTWISE, image, 64, 8, output=target[:10])


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_an_output_that_would_make_probabilities_0_is_an_error(dtype):
    with pytest.raises(ValueError, match=f"float type, such as float32; received {dtype}"):
        predict_tiled(POINTWISE, picture(20, 30), output=np.empty((20, 30, 2), dtype))


def test_a_tiff_file_is_read_by_windows(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("zarr")
    image = picture(150, 90)
    path = tmp_path / "scene.tif"
    tifffile.imwrite(path, image, tile=(32, 32), compression="zlib", photometric="rgb")
    np.testing.assert_allclose(
        predict_tiled(POINTWISE, path, 64, 8), predict_tiled(POINTWISE, image, 64, 8), atol=1e-6
    )
    (tmp_path / "text.tif").write_text("no picture")
    with pytest.raises(TypeError, match="no TIFF"):
        predict_tiled(POINTWISE, tmp_path / "text.tif")
    with pytest.raises(FileNotFoundError, match="absent"):
        predict_tiled(POINTWISE, tmp_path / "absent.tif")


def test_grey_images_need_no_channel_axis():
    image = picture(70, 50, 1)
    np.testing.assert_array_equal(
        predict_tiled(BLURRING, image[..., 0], 32, 8), predict_tiled(BLURRING, image, 32, 8)
    )


def counted(model, monkeypatch):
    """The numbers of images with which a model will be called."""
    sizes = []
    predict = model.predict_on_batch
    monkeypatch.setattr(
        model, "predict_on_batch", lambda images: sizes.append(len(images)) or predict(images)
    )
    return sizes


@pytest.mark.parametrize(
    ("images", "calls"), [(1, [1]), (3, [3]), (8, [8]), (9, [5, 5]), (16, [8, 8]), (17, [6, 6, 6])]
)
def test_the_model_sees_no_more_images_than_equal_batches_need(images, calls, monkeypatch):
    model = pointwise()
    sizes = counted(model, monkeypatch)
    batch = np.stack([picture(6, 5, seed=i) for i in range(images)])
    found = predict_augmented(model, batch, augment=False, batch_size=8)
    assert sizes == calls
    np.testing.assert_allclose(found, POINTWISE.predict_on_batch(batch), atol=1e-5)


@pytest.mark.parametrize(
    ("columns", "calls"), [(1, [1]), (2, [2]), (4, [4]), (5, [3, 3]), (9, [3, 3, 3])]
)
def test_the_model_sees_no_more_tiles_than_equal_batches_need(columns, calls, monkeypatch):
    model = pointwise()
    sizes = counted(model, monkeypatch)
    predict_tiled(model, picture(8, 8 * columns), 8, 0)
    assert sizes == calls


@pytest.mark.parametrize(
    ("tile", "overlap"), [(512, 64), (256, 64), ((300, 512), 64), (96, 24), ((64, 200), 16), (3, 0)]
)
def test_the_default_overlap_is_64_and_a_quarter_of_small_tiles(tile, overlap):
    assert resolve_tiles(tile)[1] == overlap
    image = picture(150, 130, 1)
    np.testing.assert_array_equal(
        predict_tiled(BLURRING, image, tile), predict_tiled(BLURRING, image, tile, overlap)
    )


@pytest.mark.parametrize("overlap", [np.int64(32), 32])
def test_an_overlap_of_exactly_half_a_tile_is_allowed(overlap):
    assert resolve_tiles(64, overlap) == ((64, 64), 32)


def test_progress_counts_every_tile():
    seen = []
    predict_tiled(POINTWISE, picture(100, 60), 32, 8, 3, progress=lambda *now: seen.append(now))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] == len(_positions(100, 32, 8)) * len(_positions(60, 32, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_size": 0}, "tile_size"),
        ({"tile_size": "big"}, "tile_size"),
        ({"overlap": 300}, "half a tile"),
        ({"overlap": -1}, "overlap"),
        ({"overlap": 0.25}, "in pixels"),
        ({"overlap": "64"}, "in pixels"),
        ({"overlap": True}, "in pixels"),
        ({"batch_size": 0}, "batch_size"),
        ({"augment": "sideways"}, "sideways"),
        ({"augment": 3}, "augment"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        predict_tiled(POINTWISE, picture(40, 40), **options)


def test_what_is_no_image_is_said():
    with pytest.raises(TypeError, match="list"):
        predict_tiled(POINTWISE, [[1, 2]])
    with pytest.raises(ValueError, match="without a batch"):
        predict_tiled(POINTWISE, np.zeros((1, 8, 8, 3)))
    with pytest.raises(ValueError, match="batch"):
        predict_augmented(POINTWISE, np.zeros((8, 8, 3)))
    smaller = keras.Sequential([keras.Input((None, None, 3)), keras.layers.MaxPooling2D()])
    with pytest.raises(ValueError, match="sides"):
        predict_tiled(smaller, picture(40, 40))


@pytest.mark.parametrize(
    ("augment", "views"),
    [
        (False, 1),
        (True, 2),
        ("vertical_flip", 2),
        ("rotation", 4),
        (["horizontal_flip", "vertical_flip"], 4),
        (["horizontal_flip", "rotation"], 8),
        (["horizontal_flip", "vertical_flip", "rotation"], 8),  # both flips are half a turn
        (["horizontal_flip", "scale"], 6),
        ("padding", 2),
        (["horizontal_flip", "scale", "padding"], 12),
    ],
)
def test_views_are_counted_once(augment, views, monkeypatch):
    calls = []
    model = pointwise()
    predict = model.predict_on_batch
    monkeypatch.setattr(model, "predict_on_batch", lambda x: calls.append(x) or predict(x))
    predict_augmented(model, picture(12, 12)[None], augment, batch_size=1)
    assert len(calls) == views


@pytest.mark.parametrize(
    "augment",
    [True, "vertical_flip", "rotation", ["horizontal_flip", "rotation"], ["rotation", "padding"]],
)
def test_views_are_changed_back(augment):
    image = picture(20, 33)[None].astype("float32")
    found = predict_augmented(POINTWISE, image, augment)
    np.testing.assert_allclose(found, POINTWISE.predict_on_batch(image), atol=1e-5)


def test_scaled_views_are_brought_to_the_size_of_the_image():
    image = np.full((1, 20, 33, 3), 90, "float32")
    found = predict_augmented(POINTWISE, image, "scale")
    np.testing.assert_allclose(found, POINTWISE.predict_on_batch(image), atol=1e-4)


def test_padded_views_show_the_mirrored_image_beyond_its_border(monkeypatch):
    model, seen = pointwise(), []
    predict = model.predict_on_batch
    monkeypatch.setattr(model, "predict_on_batch", lambda x: seen.append(x) or predict(x))
    image = picture(20, 33)[None]
    found = predict_augmented(model, image, ["scale", "padding"])
    sides = [view.shape[1:3] for view in seen]
    assert sides == [(20, 33), (52, 65), (16, 26), (48, 58), (25, 41), (57, 73)]
    whole = np.concatenate([image[:, :, ::-1], image, image[:, :, ::-1]], axis=2)
    np.testing.assert_array_equal(seen[1][:, 16:-16], whole[:, :, 33 - 16 : 33 + 33 + 16])
    assert found.shape[:3] == (1, 20, 33)


def test_averaging_over_flips_makes_the_mask_of_a_mirror_image_its_mirror_image():
    image = picture(24, 24, 1)[None].astype("float32") / 255
    there = predict_augmented(BLURRING, image, True)
    back = predict_augmented(BLURRING, image[:, :, ::-1], True)[:, :, ::-1]
    np.testing.assert_allclose(there, back, atol=1e-6)
    assert np.abs(there - BLURRING.predict_on_batch(image)).max() > 1e-3


@pytest.mark.slow
def test_a_large_image_takes_little_memory(tmp_path):
    code = """
import resource, keras, numpy as np, tl_unet
image = keras.Input((None, None, 3))
model = keras.Model(image, keras.layers.Conv2D(1, 3, padding="same")(image))
class Mask:
    shape, dtype = (6000, 6000, 1), np.dtype("float16")
    def __setitem__(self, index, value):
        pass
scene = np.broadcast_to(np.zeros(3, "uint8"), (6000, 6000, 3))  # takes no memory, as the mask
tl_unet.predict_tiled(model, scene[:1200])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tl_unet.predict_tiled(model, scene, output=Mask())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    # MiB: a copy of the image would have 103, one of the mask in float32 137.
    assert float(done.stdout) < 50
