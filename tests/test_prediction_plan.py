"""What is planned before the first picture is predicted: files of their own for each, and none that is there already."""

import numpy as np
import pytest
from PIL import Image
from test_prediction_files import bright, fixed_sides, half, predict

from tl_unet.prediction_files import predict_files
from tl_unet.prediction_plan import overlay_path, plan_targets


def test_masks_lie_in_the_output_as_pictures_lie_in_their_folder(tmp_path):
    for name in ("a.png", "sub/a.png", "sub/b.jpg", "sub/b.png", ".hidden/c.png", "masks/old.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(half()).save(path)
    found = plan_targets([tmp_path], tmp_path / "masks")
    targets = [path.relative_to(tmp_path / "masks").as_posix() for path in found.values()]
    assert targets == ["a.png", "sub/a.png", "sub/b.png", "sub/b.png.png"]


def test_a_mask_never_overwrites_a_picture(tmp_path):
    Image.fromarray(half()).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(ValueError, match="would overwrite"):
        predict_files(bright(), [tmp_path / "a.png"], tmp_path)
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a_overlay.png", {"overlay": True}),
        ("a_probabilities.tif", {"probabilities": True}),
    ],
)
def test_a_file_that_is_there_is_overwritten_only_if_that_is_wanted(name, options, tmp_path):
    source, masks = tmp_path / "a.jpg", tmp_path / "masks"
    Image.fromarray(half()).save(source)
    masks.mkdir()
    (masks / name).write_text("a mask that somebody drew")
    with pytest.raises(FileExistsError, match=rf"{name} would be overwritten.*overwrite=True"):
        predict(source, tmp_path, **options)
    assert [path.name for path in masks.iterdir()] == [name]
    assert (masks / name).read_text() == "a mask that somebody drew"
    (found,) = predict(source, tmp_path, overwrite=True, **options)
    assert found.error is None
    assert (masks / name).read_bytes()[:4] in (b"\x89PNG", b"II*\0")


@pytest.mark.parametrize("names", [("a.png", "a.tif"), ("a.png", "a_overlay.png")])
def test_overlays_of_different_pictures_are_different_files(names, tmp_path):
    for name, value in zip(names, (0, 255), strict=True):
        Image.new("RGB", (8, 8), (value, value, value)).save(tmp_path / name)
    sources = [tmp_path / name for name in names]
    found = predict_files(bright(), sources, tmp_path / "masks", overlay=True)
    files = [path for file in found for path in (file.mask, overlay_path(file.mask))]
    assert len(set(files)) == 4
    assert {path.name for path in files} == {path.name for path in (tmp_path / "masks").iterdir()}
    for file, empty in zip(found, (True, False), strict=True):
        assert (np.asarray(Image.open(file.mask)) == 0).all() == empty
        assert (np.asarray(Image.open(overlay_path(file.mask))) == 0).all() == empty


def test_pictures_that_no_name_keeps_apart_are_an_error(tmp_path):
    sources = [tmp_path / folder / "a.png" for folder in "xyz"]
    for source in sources:
        source.parent.mkdir()
        source.touch()
    with pytest.raises(ValueError, match=r"y.a\.png would get the same file.*a\.png\.png"):
        plan_targets(sources, tmp_path / "masks")


def test_nothing_to_predict_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no picture in"):
        plan_targets([tmp_path / "empty"], tmp_path / "masks")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        plan_targets([tmp_path / "nowhere"], tmp_path / "masks")


def test_size_and_tile_exclude_each_other(tmp_path):
    Image.fromarray(half()).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="give one of them"):
        predict(tmp_path / "a.png", tmp_path, size=32, tile=32)


@pytest.mark.parametrize(("model", "size"), [(bright, 32), (lambda: fixed_sides(), None)])
@pytest.mark.parametrize("name", ["overlap", "batch_size"])
def test_what_is_of_tiles_is_an_error_for_resized_pictures(model, size, name, tmp_path):
    Image.fromarray(half()).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=f"`{name}` is that of tiles"):
        predict(tmp_path / "a.png", tmp_path, model=model(), size=size, **{name: 8})
    assert not (tmp_path / "masks").exists()


def test_an_overlap_that_is_none_is_an_error_before_the_first_picture(tmp_path):
    Image.fromarray(half()).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="in pixels"):
        predict(tmp_path / "a.png", tmp_path, overlap=0.25)
    assert not (tmp_path / "masks").exists()
