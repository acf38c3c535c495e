"""Masks of picture files: of the picture's size and place, whatever the picture is; what can't be read is told."""

import sys
import types
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from tiny import tiny_unet

from tl_unet.pictures import read_picture
from tl_unet.prediction_files import _tiff_options, predict_files

tifffile = pytest.importorskip("tifffile")


def bright(channels=3, classes=1, level=100.0):
    """A model that finds bright pixels, whatever their surroundings."""
    image = keras.Input((None, None, channels))
    mask = keras.layers.Conv2D(
        classes, 1, name="mask", activation="sigmoid" if classes == 1 else "softmax"
    )(image)
    model = keras.Model(image, mask)
    kernel = np.full((1, 1, channels, classes), 1 / channels)
    bias = np.full(classes, -level)
    if classes > 1:  # the last class is for the bright pixels
        kernel[..., :-1], bias[:-1] = 0, (0, *[-50] * (classes - 2))
    model.get_layer("mask").set_weights([kernel, bias])
    return model


def half(height=20, width=30):
    """The left half is bright."""
    pixels = np.zeros((height, width, 3), "uint8")
    pixels[:, : width // 2] = 220
    return pixels


def predict(source, tmp_path, model=None, **options):
    return predict_files(model or bright(), [source], tmp_path / "masks", **options)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "LA", "I;16", "1"])
@pytest.mark.parametrize("size", [None, 16])
def test_pictures_of_every_mode_get_a_mask_of_their_size(mode, size, tmp_path):
    if mode == "I;16":
        picture = Image.fromarray(half()[..., 0].astype("uint16") * 257)
    else:
        picture = Image.fromarray(half()).convert(mode, dither=Image.Dither.NONE)
    source = tmp_path / f"größe {mode.replace(';', '')}.{'jpg' if mode == 'CMYK' else 'png'}"
    picture.save(source)
    (found,) = predict(source, tmp_path, size=size)
    mask = np.asarray(Image.open(found.mask))
    assert found.error is None
    assert found.mask.name == source.with_suffix(".png").name
    assert mask.shape == (20, 30)
    assert set(np.unique(mask)) == {0, 255}
    assert (mask[:, :12] == 255).all()
    assert (mask[:, 18:] == 0).all()
    assert found.foreground == pytest.approx(0.5, abs=0.1)


def test_the_mask_lies_on_the_picture_as_viewers_turn_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(half()).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    (found,) = predict(tmp_path / "turned.jpg", tmp_path, overlay=True)
    mask = np.asarray(Image.open(found.mask))
    assert mask.shape == (30, 20)
    assert (mask[:14] == 255).all()
    assert (mask[16:] == 0).all()
    assert Image.open(tmp_path / "masks" / "turned_overlay.png").size == (20, 30)


def test_unreadable_files_are_told_and_do_not_stop_the_others(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "text.png").write_text("no picture")
    (folder / "empty.jpg").write_bytes(b"")
    Image.effect_noise((64, 64), 50).convert("RGB").save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:900])
    (folder / "text.tif").write_text("no picture")
    Image.fromarray(half()).save(folder / "good.png")
    found = {file.source.name: file for file in predict(folder, tmp_path)}
    assert {name for name, file in found.items() if file.error} == {
        "text.png",
        "empty.jpg",
        "cut.jpg",
        "text.tif",
    }
    assert "cannot be read" in found["text.png"].error
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["good.png"]


@pytest.mark.parametrize("size", [None, 32])
def test_a_picture_of_one_pixel_gets_a_mask_of_one_pixel(size, tmp_path):
    Image.new("RGB", (1, 1), "white").save(tmp_path / "one.png")
    (found,) = predict(tmp_path / "one.png", tmp_path, model=tiny_unet(), size=size)
    assert Image.open(found.mask).size == (1, 1)


def test_a_long_strip_is_predicted_in_tiles(tmp_path):
    strip = half(50, 20_000)
    Image.fromarray(strip).save(tmp_path / "strip.png")
    (found,) = predict(tmp_path / "strip.png", tmp_path, tile=512, overlap=64)
    mask = np.asarray(Image.open(found.mask))
    np.testing.assert_array_equal(mask == 255, strip[..., 0] > 0)


def test_size_and_tile_and_threshold_and_augment_change_the_mask(tmp_path):
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (70, 90, 3), "uint8")).save(tmp_path / "noise.png")
    model = tiny_unet()
    seen = set()
    for options in (
        {},
        {"size": 32},
        {"tile": 32, "overlap": 8},
        {"threshold": 0.48},
        {"augment": "rotation"},
    ):
        options |= {"probabilities": True, "overwrite": True}
        (found,) = predict(tmp_path / "noise.png", tmp_path, model=model, **options)
        seen.add(
            Image.open(found.mask).tobytes()
            + tifffile.imread(tmp_path / "masks" / "noise_probabilities.tif").tobytes()
        )
    assert len(seen) == 5


@pytest.mark.parametrize(("classes", "threshold"), [(1, 127), (3, 0.9)])
def test_a_threshold_that_means_nothing_is_an_error_before_the_work(classes, threshold, tmp_path):
    with pytest.raises(ValueError, match="threshold"):
        predict("nowhere", tmp_path, model=tiny_unet(classes=classes), threshold=threshold)


def test_several_classes_are_written_as_numbers_in_colours(tmp_path):
    Image.fromarray(half()).save(tmp_path / "a.png")
    model = bright(classes=3)
    (found,) = predict(tmp_path / "a.png", tmp_path, model=model, overlay=True, probabilities=True)
    mask = Image.open(found.mask)
    assert mask.mode == "P"
    assert set(np.unique(np.asarray(mask))) == {0, 2}
    overlay = np.asarray(Image.open(tmp_path / "masks" / "a_overlay.png"))
    assert (overlay[:, 20:] == 0).all()
    pages = tifffile.imread(tmp_path / "masks" / "a_probabilities.tif")
    assert pages.shape == (3, 20, 30)
    np.testing.assert_allclose(pages.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_mask_keeps_its_place_on_the_map(compression, tmp_path):
    tags = [
        (33550, "d", 3, (0.5, 0.5, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 399960.0, 5700000.0, 0.0), True),
        (34735, "H", 8, (1, 1, 0, 1, 3072, 0, 1, 32632), True),
        (34737, "s", 0, "WGS 84 / UTM zone 32N|", True),
    ]
    tifffile.imwrite(
        tmp_path / "scene.tif",
        half(40, 60),
        extratags=tags,
        photometric="rgb",
        compression=compression,
    )
    (found,) = predict(tmp_path / "scene.tif", tmp_path, tile=32, overlap=8, probabilities=True)
    for path in (found.mask, tmp_path / "masks" / "scene_probabilities.tif"):
        with tifffile.TiffFile(path) as file:
            kept = file.pages[0].tags
            for code, _, _, value, _ in tags:
                assert kept[code].value == value
    mask = tifffile.imread(found.mask)
    np.testing.assert_array_equal(mask == 255, half(40, 60)[..., 0] > 0)


def test_a_map_whose_name_is_not_ascii_keeps_it(tmp_path):
    name = "Gauß-Krüger|".encode("cp1252") + b"\0"
    path = tmp_path / "scene.tif"
    tifffile.imwrite(path, half(), extratags=[(34737, 2, len(name), name, True)])
    (found,) = predict(path, tmp_path)
    assert found.error is None
    for file in (path, found.mask):
        assert name in Path(file).read_bytes()


@pytest.mark.parametrize("most", [0.5, 2.0, 10_000.0])
def test_overlays_are_as_bright_in_each_strip_whatever_the_values(most, tmp_path, monkeypatch):
    monkeypatch.setattr("tl_unet.prediction_files._ROWS", 8)
    pixels = np.full((24, 16, 5), 0.25, "float32")
    pixels[-1] = most
    tifffile.imwrite(
        tmp_path / "bands.tif", pixels, photometric="minisblack", planarconfig="contig"
    )
    predict(tmp_path / "bands.tif", tmp_path, bright(5, level=2e4), overlay=True)
    painted = np.asarray(Image.open(tmp_path / "masks" / "bands_overlay.png"))
    dark, light = 0.25 * 255 / max(most, 1), most * 255 / max(most, 1)
    np.testing.assert_allclose(painted[:-1], dark, atol=1)
    np.testing.assert_allclose(painted[-1], light, atol=1)


def test_a_tiff_whose_values_windows_would_give_otherwise_is_read_as_a_whole(tmp_path):
    pixels = np.full((8, 8, 4), 100, "uint8")
    options = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    whole = np.asarray(read_picture(tmp_path / "a.tif", 4))
    np.testing.assert_array_equal(
        np.asarray(read_picture(tmp_path / "a.tif", 4, lazily=True)), whole
    )


def test_a_plain_tiff_is_read_by_windows_and_gives_the_same_pixels(tmp_path):
    random = np.random.default_rng(0)
    for channels in (1, 3):
        pixels = random.integers(0, 255, (40, 50, channels), "uint8").squeeze()
        path = tmp_path / f"{channels}.tif"
        tifffile.imwrite(path, pixels, photometric="rgb" if channels == 3 else "minisblack")
        lazy, whole = read_picture(path, channels, lazily=True), read_picture(path, channels)
        assert not isinstance(lazy, np.ndarray)
        np.testing.assert_array_equal(np.asarray(lazy[3:9, 5:]), whole[3:9, 5:])


@pytest.mark.parametrize("size", [None, 16])
def test_a_tiff_of_many_channels_is_read_as_it_is(size, tmp_path):
    pixels = np.random.default_rng(0).uniform(0, 250, (24, 30, 5)).astype("float32")
    tifffile.imwrite(
        tmp_path / "bands.tif", pixels, photometric="minisblack", planarconfig="contig"
    )
    Image.fromarray(half()).save(tmp_path / "rgb.png")
    model = bright(channels=5)
    found = predict_files(
        model, [tmp_path / "bands.tif", tmp_path / "rgb.png"], tmp_path / "masks", size=size
    )
    assert tifffile.imread(found[0].mask).shape == (24, 30)
    assert "the 5 channels" in found[1].error


def test_arrays_that_need_it_are_written_as_a_big_tiff():
    for side, big in ((2**10, False), (2**16, True)):
        array = np.broadcast_to(np.uint8(0), (side, side))  # of 4 GiB without their memory
        assert _tiff_options(array, Path("a.png"))["bigtiff"] == big


def test_an_output_that_cannot_be_a_folder_is_an_error(tmp_path):
    Image.fromarray(half()).save(tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        predict_files(bright(), [tmp_path / "a.png"], tmp_path / "file" / "masks")


def test_a_full_disk_is_told_and_leaves_no_half_mask(tmp_path, monkeypatch):
    Image.fromarray(half()).save(tmp_path / "a.png")

    def full(self, path, *args, **kwargs):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    (found,) = predict(tmp_path / "a.png", tmp_path)
    assert "No space left" in found.error
    assert not list((tmp_path / "masks").iterdir())


def test_probabilities_of_a_large_picture_lie_in_a_file_if_there_is_room(tmp_path, monkeypatch):
    source = tmp_path / "picture.png"
    Image.fromarray(half()).save(source)
    in_memory = np.asarray(Image.open(predict(source, tmp_path / "memory")[0].mask))
    monkeypatch.setattr("tl_unet.prediction_files._IN_MEMORY", 0)
    found = predict(source, tmp_path / "file")[0]
    np.testing.assert_array_equal(np.asarray(Image.open(found.mask)), in_memory)
    full = types.SimpleNamespace(free=4 * in_memory.size - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: full)
    found = predict(source, tmp_path / "full")[0]
    assert "set TMPDIR" in found.error
    assert not (tmp_path / "full" / "masks" / "picture.png").exists()


def test_a_model_of_fixed_sides_gets_pictures_of_its_size(tmp_path):
    image = keras.Input((16, 24, 3))
    model = keras.Model(image, keras.layers.Conv2D(1, 1, activation="sigmoid")(image))
    Image.fromarray(half()).save(tmp_path / "a.png")
    (found,) = predict(tmp_path / "a.png", tmp_path, model=model)
    assert Image.open(found.mask).size == (30, 20)
    with pytest.raises(ValueError, match="pictures of"):
        predict(tmp_path / "a.png", tmp_path, model=model, size=32)


def test_a_palette_with_transparency_makes_no_warning(tmp_path):
    picture = Image.fromarray(half()).convert("P")
    picture.info["transparency"] = b"\0\1"
    picture.save(tmp_path / "p.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert predict(tmp_path / "p.png", tmp_path)[0].error is None


def fixed_sides(height=16, width=24):
    """A model that finds bright pixels in pictures of one size."""
    image = keras.Input((height, width, 3))
    return keras.Model(image, bright()(image))


def test_a_model_of_fixed_sides_predicts_in_tiles_of_them_if_asked(tmp_path):
    scene = np.zeros((100, 130, 3), "uint8")
    scene[::2] = 220  # lines that resizing would blur
    Image.fromarray(scene).save(tmp_path / "a.png")
    (found,) = predict(tmp_path / "a.png", tmp_path, model=fixed_sides(), tile=(16, 24))
    np.testing.assert_array_equal(np.asarray(Image.open(found.mask)), 255 * (scene[..., 0] > 0))
    (resized,) = predict(tmp_path / "a.png", tmp_path, model=fixed_sides(), overwrite=True)
    assert not (np.asarray(Image.open(resized.mask)) == 255 * (scene[..., 0] > 0)).all()


def test_tiles_that_a_model_of_fixed_sides_does_not_take_are_an_error_that_names_its_size(tmp_path):
    Image.fromarray(half()).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"tiles of \(16, 24\).*tile=512"):
        predict(tmp_path / "a.png", tmp_path, model=fixed_sides(), tile=512)
    assert not (tmp_path / "masks").exists()


def test_a_picture_smaller_than_the_tiles_of_a_model_of_fixed_sides_is_told(tmp_path):
    Image.fromarray(half(15, 30)).save(tmp_path / "a.png")
    (found,) = predict(tmp_path / "a.png", tmp_path, model=fixed_sides(), tile=(16, 24))
    assert "15 x 30" in found.error
    assert "without a tile size it is resized" in found.error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": None}, "gives logits"),
        ({"activation": None, "classes": 3}, "gives logits"),
        ({"activation": "sigmoid", "classes": 3}, "may overlap"),
    ],
)
def test_models_whose_masks_would_be_misread_are_refused(options, message, tmp_path):
    Image.fromarray(half()).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        predict(tmp_path / "a.png", tmp_path, model=tiny_unet(**options))
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize(
    ("name", "channels", "options", "package"),
    [
        ("a.tif", 3, {}, "tifffile"),
        ("a.png", 3, {"probabilities": True}, "tifffile"),
        ("a.tif", 5, {}, "zarr"),
    ],
)
def test_a_missing_package_is_named_before_the_first_picture(
    name, channels, options, package, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    Image.fromarray(half()).save(tmp_path / "good.png")
    Image.fromarray(half()).save(tmp_path / name)
    sources, masks = [tmp_path / "good.png", tmp_path / name], tmp_path / "masks"
    with pytest.raises(ImportError, match=f"pip install {package}"):
        predict_files(bright(channels=channels), sources, masks, **options)
    assert not masks.exists()


def test_png_masks_need_no_further_package(tmp_path, monkeypatch):
    for package in ("tifffile", "zarr"):
        monkeypatch.setitem(sys.modules, package, None)
    Image.fromarray(half()).save(tmp_path / "a.png")
    assert predict(tmp_path / "a.png", tmp_path)[0].error is None


def test_pictures_of_12_bits_in_16_are_told_once(tmp_path):
    (tmp_path / "pictures").mkdir()
    for name in "abc":
        pixels = half()[..., 0].astype("uint16") * 16
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{name}.png")
    with pytest.warns(UserWarning, match="16-bit values") as told:
        predict(tmp_path / "pictures", tmp_path)
    (text,) = [str(w.message) for w in told if "16-bit" in str(w.message)]
    assert "a.png" in text
    assert "3520" in text
