"""Files of which Pillow alone would give other pixels than they hold, and files that are not one picture."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from tl_unet.data.decoding import decode_image, decode_mask
from tl_unet.data.labels import LabelTable
from tl_unet.data.pipeline import load_pair
from tl_unet.pictures import resize_picture, warn_once


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def tiff(pixels, **options):
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def deep_png(pixels):
    """A PNG of 16 bits with 2, 3 or 4 channels, which Pillow cannot write."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, channels = pixels.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


DEEP = {
    "png": deep_png,
    "tiff": lambda pixels: tiff(pixels, photometric="rgb"),
    "big-endian": lambda pixels: tiff(pixels, photometric="rgb", byteorder=">"),
    "deflate": lambda pixels: tiff(pixels, photometric="rgb", compression="zlib"),
    "planar": lambda pixels: tiff(
        np.moveaxis(pixels, -1, 0).copy(), photometric="rgb", planarconfig="separate"
    ),
}


def test_each_of_four_channels_is_resized_for_itself():
    pixels = np.full((8, 8, 4), 200, "uint8")
    pixels[..., 3] = 0
    np.testing.assert_array_equal(resize_picture(pixels, 4), pixels[:4, :4])
    picture, mask = encoded(Image.fromarray(pixels)), encoded(Image.new("L", (8, 8)))
    seen, _ = load_pair(picture, mask, (4, 4), LabelTable(), channels=4)
    np.testing.assert_array_equal(seen, pixels[:4, :4])


# 16 bits


@pytest.mark.parametrize("kind", DEEP)
def test_colours_of_16_bits_are_scaled_as_grey_is(kind, recwarn):
    pixels = np.random.default_rng(0).integers(0, 65536, (6, 7, 3)).astype("uint16")
    np.testing.assert_array_equal(decode_image(DEEP[kind](pixels)), pixels // 257)
    black = np.zeros((2, 2, 3), "uint16")
    assert not np.asarray(decode_image(DEEP[kind](black))).any()
    assert not recwarn


@pytest.mark.parametrize("kind", DEEP)
def test_colours_that_16_bits_make_dark_are_told_as_grey_is(kind):
    pixels = np.full((6, 7, 3), 4095, "uint16")
    told = []
    decode_image(DEEP[kind](pixels), warn=told.append)
    assert "reach only 4095" in str(told[0])
    with pytest.raises(ValueError, match="reach only 200: .*black"):
        decode_image(DEEP[kind](pixels // 4095 * 200))


def test_transparency_does_not_hide_that_colours_are_dark():
    pixels = np.full((4, 4, 4), 65535, "uint16")
    pixels[..., :3] = 200
    with pytest.raises(ValueError, match="reach only 200"):
        decode_image(deep_png(pixels), channels=4)
    with pytest.raises(ValueError, match="16 bits"):
        decode_mask(deep_png(pixels))


def test_grey_with_transparency_of_16_bits_is_read():
    pixels = np.full((4, 4, 2), 257 * 100, "uint16")
    assert (np.asarray(decode_image(deep_png(pixels), channels=1)) == 100).all()


# Four channels


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "rgb", "extrasamples": ["unspecified"]},
        {"photometric": "rgb", "extrasamples": ["unspecified"], "compression": "zlib"},
        {"photometric": "minisblack", "planarconfig": "contig"},
        {"photometric": "minisblack", "planarconfig": "separate"},
    ],
)
def test_the_fourth_band_of_a_tiff_is_kept(options, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 4)).astype(dtype)
    pixels[0, 0] = 255
    stored = pixels * np.array(257 if dtype == "uint16" else 1, dtype)
    if options.get("planarconfig") == "separate":
        stored = np.moveaxis(stored, -1, 0).copy()
    np.testing.assert_array_equal(decode_image(tiff(stored, **options), channels=4), pixels)


def test_a_fifth_band_is_not_left_out_of_four():
    data = tiff(np.zeros((6, 7, 5), "uint8"), photometric="rgb", extrasamples=["unspecified"] * 2)
    with pytest.raises(ValueError, match="5 channels, not 4"):
        decode_image(data, channels=4)


# Not one picture, or turned


def test_files_of_several_pictures_are_refused():
    pages = [Image.new("L", (4, 4), level) for level in (0, 90, 200)]
    for kind in ("TIFF", "GIF", "PNG", "WEBP"):
        data = encoded(pages[0], kind, save_all=True, append_images=pages[1:])
        for decode in (decode_image, decode_mask):
            with pytest.raises(ValueError, match="3 pictures"):
                decode(data)
    data = encoded(Image.new("RGB", (4, 4)), "MPO", save_all=True, append_images=pages[1:])
    assert decode_image(data).size == (4, 4)  # of a camera, with its previews


def test_smaller_copies_in_a_tiff_are_no_further_pictures():
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(np.full((8, 8, 3), 9, "uint8"), photometric="rgb")
        writer.write(np.full((4, 4, 3), 1, "uint8"), photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(decode_image(file.getvalue()), np.full((8, 8, 3), 9))


def test_what_pillow_stumbles_over_is_an_error_that_says_so(monkeypatch):
    def stumble(image):
        raise TypeError("no number")

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", stumble)
    told = []
    assert decode_image(encoded(Image.new("RGB", (6, 4))), warn=told.append).size == (6, 4)
    assert "EXIF data is damaged (no number)" in str(told[0])
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", stumble)
    with pytest.raises(OSError, match="damaged: no number"):
        decode_image(encoded(Image.new("RGB", (6, 4))))


def test_a_mask_on_the_stored_pixels_of_a_turned_picture_is_told():
    def load(size, orientation, mask_orientation=None):
        image = encoded(Image.new("RGB", size), "JPEG", exif=turned(orientation))
        exif = {} if mask_orientation is None else {"exif": turned(mask_orientation)}
        mask = encoded(Image.new("L", size), **exif)
        load_pair(image, mask, (4, 4), LabelTable(), warn=told.append)

    told = []
    with pytest.raises(ValueError, match="EXIF orientation of the image is 6, that of the mask 1"):
        load((20, 10), 6)
    load((20, 10), 6, 6)
    load((20, 10), 1)
    assert not told
    load((20, 10), 3)
    load((10, 10), 6)
    assert ["not turned" in str(message) for message in told] == [True, True]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_the_orientation_is_known_whatever_the_kind_of_file(kind):
    told = []
    for orientation in (1, 3):
        image = encoded(Image.new("RGB", (20, 10)), kind, exif=turned(orientation))
        mask = encoded(Image.new("L", (20, 10)))
        load_pair(image, mask, (4, 4), LabelTable(), warn=told.append)
        assert len(told) == (orientation > 1)


def test_what_is_taken_as_stored_is_not_told_of_damaged_exif(monkeypatch):
    def stumble(*args):
        raise TypeError("no number")

    monkeypatch.setattr("PIL.Image.Exif.load", stumble)
    image = encoded(Image.new("RGB", (6, 4)))
    decode_image(image, orient=False, warn=lambda message: pytest.fail(str(message)))


def test_each_kind_of_warning_is_told_once():
    warn = warn_once()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for message in (UserWarning("a"), RuntimeWarning("b"), UserWarning("c")):
            warn(message)
    assert [str(warning.message) for warning in told] == ["a", "b"]


# Masks


def test_masks_of_print_colours_are_read_as_they_look():
    ink = np.zeros((4, 4, 4), "uint8")
    ink[..., 3] = 255
    ink[:2] = 0
    data = encoded(Image.fromarray(ink, "CMYK"), "TIFF")
    np.testing.assert_array_equal(decode_mask(data)[:, 0], [255, 255, 0, 0])
