"""A user's folders: pairing, labels, and errors that name every bad pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tl_unet.data import image_mask_dataset
from tl_unet.pictures import find_pictures


@pytest.fixture
def folders(tmp_path):
    """Three good pairs, each in other formats; the mask of `b` is its left half."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    for name, image_kind, mask_kind in (
        ("a", "jpg", "png"),
        ("b", "PNG", "tif"),
        ("c", "bmp", "gif"),
    ):
        mask = np.zeros((20, 30), np.uint8)
        mask[:, :15] = 255
        Image.fromarray(np.repeat(mask[..., None], 3, -1)).save(images / f"{name}.{image_kind}")
        Image.fromarray(mask).save(masks / f"{name}.{mask_kind}")
    (images / "Thumbs.db").write_bytes(b"no picture")
    (images / "._a.jpg").write_bytes(b"no picture either")
    return images, masks


def load(folders, **options):
    return image_mask_dataset(*folders, **{"size": 16, **options})


def error(folders, **options):
    with pytest.raises(ValueError, match="problem") as caught:
        load(folders, **options)
    return str(caught.value)


def test_pairs_of_any_format_are_found_by_name(folders):
    subset = load(folders, size=(16, 24), batch_size=2)
    assert subset.names == ["a", "b", "c"]
    batches = list(subset.dataset)
    assert [image.shape.as_list() for image, _ in batches] == [[2, 16, 24, 3], [1, 16, 24, 3]]
    for image, mask in batches:
        assert set(np.unique(mask)) == {0, 1}
        bright = image.numpy()[..., :1] > 127
        np.testing.assert_array_equal(bright, mask.numpy() == 1)


def test_names_that_only_look_the_same_are_told_apart(folders):
    images, masks = folders
    Image.new("RGB", (5, 5)).save(images / "caf\u00e9.png")
    Image.new("L", (5, 5)).save(masks / "cafe\u0301.png")
    message = error(folders)
    assert message.startswith("1 problem in")
    assert r"('cafe\u0301', not 'caf\xe9'): rename one" in message


def test_everything_wrong_is_listed_in_one_error(folders):
    images, masks = folders
    Image.new("RGB", (5, 5)).save(images / "lonely.png")
    Image.new("L", (5, 5)).save(masks / "orphan.png")
    Image.new("RGB", (5, 5)).save(images / "uneven.png")
    Image.new("L", (5, 6)).save(masks / "uneven.png")
    Image.new("RGB", (5, 5)).save(images / "odd.png")
    Image.new("L", (5, 5), 77).save(masks / "odd.png")
    (images / "empty.png").write_bytes(b"")
    Image.new("L", (5, 5)).save(masks / "empty.png")
    Image.effect_noise((64, 64), 50).convert("RGB").save(images / "cut.jpg")
    (images / "cut.jpg").write_bytes((images / "cut.jpg").read_bytes()[:900])
    Image.new("L", (64, 64)).save(masks / "cut.png")
    Image.new("RGB", (20, 30)).save(images / "a.png")
    for options in ({}, {"cache": False}):
        text = error(folders, **options)
        assert text.startswith("7 problems in ")
        assert "lonely: the image has no mask" in text
        assert "orphan: the mask has no image" in text
        assert "uneven: the image is 5 x 5 (height x width), its mask 6 x 5" in text
        assert "odd: unexpected mask value 77; expected 0, 1, 255" in text
        assert "empty: the image cannot be read" in text
        assert "cut: the image cannot be read" in text
        assert "a: 2 images (a.jpg, a.png)" in text


def test_a_long_list_of_problems_ends_with_their_number(folders):
    for index in range(130):
        Image.new("RGB", (2, 2)).save(folders[0] / f"x{index:03d}.png")
    text = error(folders)
    assert "130 problems" in text
    assert text.endswith("... and 30 more")


def test_without_verification_a_bad_pair_is_named_when_it_is_met(folders):
    (folders[0] / "b.PNG").write_bytes(b"broken")
    subset = load(folders, cache=False, verify=False, batch_size=1)
    with pytest.raises(Exception, match="b: the image cannot be read"):
        list(subset.dataset)


def test_labels_map_numbers_and_decide_the_classes(folders):
    subset = load(folders, labels={0: 2, 255: 0})
    mask = next(iter(subset.dataset))[1].numpy()
    assert mask.dtype == np.int32
    assert (mask[:, :, :8] == 0).all()
    assert (mask[:, :, 8:] == 2).all()
    assert next(iter(load(folders, labels=[255, 0]).dataset))[1].numpy()[0, 0, 0, 0] == 0
    assert next(iter(load(folders, classes=2, labels=[0, 255]).dataset))[1].dtype == "int32"
    assert "expected 0, 9" in error(folders, labels=[0, 9])


@settings(max_examples=10)
@given(
    st.dictionaries(st.integers(0, 255), st.integers(0, 6) | st.just(255), min_size=1, max_size=5)
)
def test_any_label_table_gives_its_classes(tmp_path_factory, labels):
    root = tmp_path_factory.mktemp("labels")
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    mask = np.resize(np.array(list(labels), np.uint8), (12, 16))
    Image.fromarray(np.repeat(mask[..., None], 3, -1)).save(root / "images/p.png")
    Image.fromarray(mask).save(root / "masks/p.png")
    subset = image_mask_dataset(root / "images", root / "masks", size=(12, 16), labels=labels)
    got = next(iter(subset.dataset))[1].numpy()[0, ..., 0]
    np.testing.assert_array_equal(got, np.vectorize(labels.get)(mask))


def test_colour_and_palette_masks(folders):
    images, masks = folders
    for file in masks.iterdir():
        file.unlink()
    colours = np.zeros((20, 30, 3), np.uint8)
    colours[:, :15] = (0, 128, 0)
    for name in "abc":
        Image.fromarray(colours).save(masks / f"{name}.png")
    assert "3 problems" in error(folders)
    subset = load(folders, labels={(0, 0, 0): 0, (0, 128, 0): 1})
    assert next(iter(subset.dataset))[1].numpy().mean() == 0.5
    assert "(0, 128, 0)" in error(folders, labels={(0, 0, 0): 0})
    for name in "abc":
        palette = Image.fromarray((colours[..., 1] > 0).astype(np.uint8))
        palette.putpalette([0, 0, 0, 0, 128, 0])
        palette.save(masks / f"{name}.png")
    assert next(iter(load(folders).dataset))[1].numpy().mean() == 0.5


def test_suffix_subfolders_and_chosen_names(folders, tmp_path):
    images, masks = folders
    for file in list(masks.iterdir()):
        file.rename(file.with_stem(file.stem + "_mask"))
    assert load(folders, mask_suffix="_mask").names == ["a", "b", "c"]
    assert "6 problems" in error(folders)
    (images / "more").mkdir()
    (masks / "more").mkdir()
    Image.new("RGB", (4, 4)).save(images / "more/a.png")
    Image.new("L", (4, 4)).save(masks / "more/a_mask.png")
    options = {"mask_suffix": "_mask", "recursive": True}
    assert load(folders, **options).names == ["a", "b", "c", "more/a"]
    assert load(folders, names=["more/a", "b"], **options).names == ["more/a", "b"]
    assert "nobody: neither an image nor a mask" in error(folders, names=["a", "nobody"], **options)


def test_images_and_masks_may_lie_in_one_folder(folders):
    images, masks = folders
    for file in list(masks.iterdir()):
        file.rename(images / f"{file.stem}_mask{file.suffix}")
    assert load((images, images), mask_suffix="_mask").names == ["a", "b", "c"]
    (images / "a.jpg").unlink()
    assert "1 problem" in error((images, images), mask_suffix="_mask")


def test_linked_folders_are_followed_and_loops_left(folders):
    images, masks = folders
    for folder in folders:
        (folder / "more").symlink_to(folder.with_name(f"other_{folder.name}"))
        folder.with_name(f"other_{folder.name}").mkdir()
        (folder / "more" / "loop").symlink_to(folder)
    Image.new("RGB", (4, 4)).save(images / "more/d.png")
    Image.new("L", (4, 4)).save(masks / "more/d.png")
    assert load(folders, recursive=True).names == ["a", "b", "c", "more/d"]
    assert len(find_pictures(images)) == 4


def test_only_a_folder_inside_is_left_out_of_the_pictures(folders):
    images, _ = folders
    (images / "found").mkdir()
    Image.new("RGB", (4, 4)).save(images / "found/d.png")
    for without, count in ((images / "found", 3), (images, 4), (images.parent, 4), (None, 4)):
        assert len(find_pictures(images, without)) == count, without


def test_masks_of_0_and_255_are_no_two_classes_of_background(folders, tmp_path):
    for cache in (True, False, tmp_path / "cache"):
        text = error(folders, classes=2, cache=cache)
        assert text.startswith("1 problem in ")
        assert "the masks hold 255 and no class from 1 to 1" in text
        assert "classes=1, or labels={0: 0, 255: 1}" in text
    assert load(folders, classes=2, labels={0: 0, 255: 255}).names
    Image.new("L", (30, 20), 1).save(folders[1] / "a.png")
    assert load(folders, classes=2).names  # a class somewhere: 255 is to be ignored


def test_objects_of_1_in_some_masks_and_255_in_others_are_unclear(folders):
    Image.new("L", (30, 20), 1).save(folders[1] / "a.png")
    assert "the value 1 in some masks and 255 in others: is 255 the object" in error(folders)
    assert load(folders, labels={0: 0, 1: 1, 255: 1}).names


def test_images_and_masks_are_turned_upright_by_exif(folders):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 30)).save(folders[0] / "a.jpg", exif=exif)  # shown as 30 x 20
    assert load(folders).names == ["a", "b", "c"]
    Image.new("RGB", (20, 30)).save(folders[0] / "a.jpg")
    assert "a: the image is 30 x 20" in error(folders)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels(folders, channels):
    assert next(iter(load(folders, channels=channels).dataset))[0].shape == (3, 16, 16, channels)


def test_changed_files_are_not_taken_from_the_cache(folders, tmp_path):
    def first():
        return next(iter(load(folders, cache=tmp_path / "cache").dataset))[0].numpy()

    before = first()
    np.testing.assert_array_equal(first(), before)
    Image.new("RGB", (30, 20), (1, 2, 3)).save(folders[0] / "b.PNG")
    assert (first() != before).any()


def test_shuffle_draws_new_orders(folders):
    Image.new("RGB", (30, 20)).save(folders[0] / "b.PNG")
    dataset = load(folders, shuffle=True, batch_size=1).dataset
    orders = {tuple(float(image.numpy().mean()) for image, _ in dataset) for _ in range(8)}
    assert len(orders) > 1


def test_nothing_to_load_is_an_error(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="There is no image in"):
        image_mask_dataset(tmp_path / "empty", tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no directory .*nowhere"):
        image_mask_dataset(tmp_path / "nowhere", folders[1])
    with pytest.raises(ValueError, match="channels"):
        load(folders, channels=2)
    with pytest.raises(ValueError, match="size"):
        load(folders, size=0)
