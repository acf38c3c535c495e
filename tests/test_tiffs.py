"""TIFFs read by windows: where their bands are, damage, and what is refused."""

import keras
import numpy as np
import pytest
from PIL import Image

from tl_unet import predict_tiled
from tl_unet.pictures import read_picture, read_resized
from tl_unet.tiffs import Unreadable, open_tiff

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("zarr")

BANDS = np.random.default_rng(0).integers(0, 1000, (40, 50, 12)).astype("uint16")


def by_band(pixels):
    return np.moveaxis(pixels, -1, 0).copy()


def mean(channels):
    inputs = keras.Input((None, None, channels))
    return keras.Model(inputs, keras.ops.mean(inputs, -1, keepdims=True))


@pytest.mark.parametrize("window", [np.s_[3:9, 5:20], np.s_[:], np.s_[4:], np.s_[2:4, :, :3]])
def test_bands_one_after_another_are_read_as_channels(window, tmp_path):
    path = tmp_path / "planar.tif"
    tifffile.imwrite(path, by_band(BANDS), photometric="minisblack", planarconfig="separate")
    found = open_tiff(path)
    assert found.shape == BANDS.shape
    np.testing.assert_array_equal(found[window], BANDS[window])
    np.testing.assert_array_equal(read_picture(path, 12), BANDS)
    assert read_resized(path, mean(12), 8).shape == (8, 8, 12)


def test_tiles_of_a_planar_tiff_are_those_of_the_array(tmp_path):
    pixels = BANDS[..., :3].astype("uint8")
    path = tmp_path / "planar.tif"
    tifffile.imwrite(path, by_band(pixels), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(
        predict_tiled(mean(3), path, 32, 8), predict_tiled(mean(3), pixels, 32, 8)
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", ["contig", "separate"])
def test_a_file_without_compression_is_mapped_for_its_strip_may_be_all_of_it(
    order, layout, tmp_path
):
    path = tmp_path / "scene.tif"
    pixels = by_band(BANDS) if layout == "separate" else BANDS
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig=layout, byteorder=order)
    found = open_tiff(path)
    assert isinstance(found.array, np.memmap)
    window = found[3:9, 5:20]
    assert window.dtype == found.dtype == np.uint16
    np.testing.assert_array_equal(window, BANDS[3:9, 5:20])
    del found
    path.write_bytes(path.read_bytes()[: BANDS.nbytes // 2])  # its description comes first
    with pytest.raises(Unreadable, match="cannot be read"):
        open_tiff(path)


def test_pages_are_not_taken_for_height(tmp_path):
    path = tmp_path / "pages.tif"
    tifffile.imwrite(path, by_band(BANDS), photometric="minisblack")
    with pytest.raises(Unreadable, match=r"pages\.tif.*several pages"):
        predict_tiled(mean(12), path)
    with pytest.raises(Unreadable, match="several pages"):
        read_picture(path, 12)


def test_smaller_copies_are_no_further_pages(tmp_path):
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(BANDS, photometric="minisblack", planarconfig="contig")
        writer.write(
            BANDS[::2, ::2], photometric="minisblack", planarconfig="contig", subfiletype=1
        )
    np.testing.assert_array_equal(read_picture(path, 12), BANDS)


def test_what_does_not_fit_is_said(tmp_path, monkeypatch):
    path = tmp_path / "bands.tif"
    tifffile.imwrite(path, BANDS, photometric="minisblack", planarconfig="contig")
    with pytest.raises(Unreadable, match="has 12 channels, the model takes 5"):
        read_picture(path, 5)
    monkeypatch.setattr("tl_unet.tiffs._UNPACKED", ())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unreadable, match="compression NONE needs .*imagecodecs"):
        read_picture(path, 12)


@pytest.mark.parametrize("lazily", [True, False])
def test_damage_met_in_a_window_makes_the_file_unreadable(lazily, tmp_path):
    path = tmp_path / "scene.tif"
    tifffile.imwrite(path, BANDS, photometric="minisblack", planarconfig="contig", compression=8)
    data = bytearray(path.read_bytes())
    data[-3000:] = bytes(3000)
    path.write_bytes(data)
    found = read_picture(path, 12, lazily=lazily)
    with pytest.raises(Unreadable, match="cannot be read"):
        np.asarray(found)
    with pytest.raises(Unreadable, match="cannot be read"):
        predict_tiled(mean(12), path, 16, 4)


@pytest.mark.parametrize(
    ("name", "dtype", "advice"),
    [
        ("small.tif", "uint8", "^((?!Save it).)*Give --tile"),
        ("deep.tif", "uint16", r"Save it .* 8 bits .*give --tile .*are uint16, not of 8 bits"),
        ("small.png", "uint8", r"Save it as a TIFF .*windows\.$"),
    ],
)
def test_what_to_do_with_a_picture_too_large_for_pillow(name, dtype, advice, tmp_path, monkeypatch):
    pixels = np.full((40, 50, 3), 9, dtype)
    if name.endswith("tif"):
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb")
    else:
        Image.fromarray(pixels).save(tmp_path / name)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Unreadable, match=advice):
        read_picture(tmp_path / name, 3)
