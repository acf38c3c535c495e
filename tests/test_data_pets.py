"""Oxford-IIIT Pet: one split from either source, the meaning of the border, clear errors."""

import csv
import sys

import numpy as np
import pytest
from conftest import shared_path
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tl_unet.data import oxford_pets, pets

# Numbers that are not among the few files that TFDS re-encodes.
LISTED = [f"{breed}_{i}" for breed in ("Abyssinian", "beagle") for i in range(40, 64)]
NAMES = [*LISTED, "Bombay_100", "Bombay_11"]  # near-duplicates; the second is in no list
TEST = [f"pug_{i}" for i in range(1, 5)]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A small data set in the layout of the official archives; a picture is told by its pixels."""
    root = tmp_path_factory.mktemp("pets")
    for folder in ("images", "annotations/trimaps", "annotations/xmls"):
        (root / folder).mkdir(parents=True)
    box = "<xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax>"
    size = "<size><width>16</width><height>12</height></size>"
    xml = f"<annotation>{size}<object><bndbox>{box}</bndbox></object></annotation>"
    trimap = np.full((12, 16), 2, np.uint8)
    trimap[3:9, 4:12] = 3
    trimap[4:8, 5:11] = 1
    for index, name in enumerate([*NAMES, *TEST, "pug_99"]):
        Image.new("RGB", (16, 12), (index * 4, 90, 30)).save(root / f"images/{name}.jpg")
        Image.fromarray(trimap).save(root / f"annotations/trimaps/{name}.png")
        if name in NAMES:
            (root / f"annotations/xmls/{name}.xml").write_text(xml)
    # Hidden files as the real archives hold them.
    (root / "annotations/xmls/._beagle_41.xml").write_bytes(b"")
    (root / "annotations/trimaps/._beagle_41.png").write_bytes(b"")
    for file, names in (("trainval", [*LISTED, "Bombay_100", "pug_99"]), ("test", TEST)):
        text = "".join(f"{name} 1 1 1\n" for name in names)
        (root / f"annotations/{file}.txt").write_text(text)
    return root


@pytest.fixture(scope="module")
def tfds_dir(archive, tmp_path_factory):
    """The same data set, written by TFDS' own builder; its download is replaced."""
    tfds = pytest.importorskip("tensorflow_datasets")
    root = tmp_path_factory.mktemp("tfds")
    for part, folder in (("images", "images"), ("annotations", "annotations")):
        (root / part).mkdir()
        (root / part / folder).symlink_to(archive / folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tfds.download.DownloadManager,
            "download_and_extract",
            lambda self, urls: {part: str(root / part) for part in urls},
        )
        builder = tfds.builder("oxford_iiit_pet:4.*.*", data_dir=root / "data")
        builder.download_and_prepare()
    return root / "data"


def load(source, **options):
    return oxford_pets(source, **{"size": (12, 16), "batch_size": 4, **options})


def pixels(subset):
    """Image and mask of each name, in the order of `names`."""
    pairs = [pair for batch in subset.dataset for pair in zip(*map(np.asarray, batch), strict=True)]
    return dict(zip(subset.names, pairs, strict=True))


def test_either_source_gives_the_same_pictures_in_the_same_parts(archive, tfds_dir):
    direct, stored = load(archive), load("tfds", data_dir=tfds_dir)
    assert list(direct) == list(stored) == ["train", "validation", "test"]
    for part in ("train", "validation"):
        assert direct[part].names == stored[part].names
    assert direct["test"].names == [*stored["test"].names, "Bombay_11"]
    assert "Bombay_100" in stored["test"].names
    everything = [name for subset in direct.values() for name in subset.names]
    assert sorted(everything) == sorted(NAMES)
    ours, theirs = pixels(direct["test"]), pixels(stored["test"])
    for name, (image, mask) in theirs.items():
        np.testing.assert_array_equal(image, ours[name][0])
        np.testing.assert_array_equal(mask, ours[name][1])


def test_training_batches_are_equal_from_either_source(archive, tfds_dir):
    one, other = load(archive, augment=True), load("tfds", data_dir=tfds_dir, augment=True)
    for a, b in zip(one["train"].dataset, other["train"].dataset, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


def test_official_split_follows_the_lists(archive, tfds_dir):
    for parts in (
        load(archive, split="official"),
        load("tfds", split="official", data_dir=tfds_dir),
    ):
        assert {part: sorted(subset.names) for part, subset in parts.items()} == {
            "train": sorted([*LISTED, "Bombay_100", "pug_99"]),
            "test": sorted(TEST),
        }


@pytest.mark.parametrize("source", ["archive", "tfds"])
def test_limit_takes_the_first_of_each_part(archive, tfds_dir, source):
    where = (archive, {}) if source == "archive" else ("tfds", {"data_dir": tfds_dir})
    whole, few = load(where[0], **where[1]), load(where[0], limit=6, **where[1])
    assert [len(subset.names) for subset in few.values()] == [6, 2, 2]
    for part, subset in few.items():
        assert subset.names == whole[part].names[: len(subset.names)]


@pytest.mark.parametrize(
    ("border", "at_border", "dtype"),
    [
        ("animal", 1, "float32"),
        ("background", 0, "float32"),
        ("ignore", 255, "float32"),
        ("class", 2, "int32"),
    ],
)
def test_border_pixels_are_what_was_asked_for(archive, border, at_border, dtype):
    mask = next(iter(load(archive, border=border)["test"].dataset))[1].numpy()[..., 0]
    assert mask.dtype == dtype
    assert (mask[:, 3, 4:12] == at_border).all()
    assert (mask[:, 5, 6:10] == 1).all()
    assert (mask[:, 0] == 0).all()


def test_only_training_pictures_are_shuffled_and_augmented(archive):
    plain, changed = load(archive), load(archive, augment=lambda image, mask: (image * 0, mask))
    assert not any(image.any() for image, _ in pixels(changed["train"]).values())
    for part in ("validation", "test"):
        for name, (image, _) in pixels(changed[part]).items():
            assert image[0, 0, 0] == pytest.approx(NAMES.index(name) * 4, abs=3)
    epochs = [
        [float(x) for i, _ in plain["train"].dataset for x in i[:, 0, 0, 0]] for _ in range(2)
    ]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1])


def test_pictures_are_the_same_without_a_cache(archive):
    cached, fresh = (pixels(load(archive, cache=cache)["test"]) for cache in (True, False))
    for name, (image, mask) in cached.items():
        np.testing.assert_array_equal(image, fresh[name][0])
        np.testing.assert_array_equal(mask, fresh[name][1])


def test_file_cache_keeps_borders_apart(archive, tmp_path):
    one = load(archive, cache=tmp_path)["test"]
    other = load(archive, cache=tmp_path, border="background")["test"]
    assert next(iter(one.dataset))[1].numpy().sum() > next(iter(other.dataset))[1].numpy().sum()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "random"}, "split"),
        ({"border": "edge"}, "border"),
        ({"limit": 2}, "limit"),
        ({"size": -1}, "size"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_read(archive, options, words):
    with pytest.raises(ValueError, match=words):
        load(archive, **options)


def test_other_directories_and_missing_files_are_errors(archive, tmp_path):
    with pytest.raises(FileNotFoundError, match="no images, annotations/trimaps, annotations/xmls"):
        load(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").symlink_to(archive / "annotations")
    with pytest.raises(FileNotFoundError, match=f"{len(NAMES)} files .*Abyssinian_40.jpg"):
        load(tmp_path)


def test_too_small_a_part_of_the_data_set_is_an_error(archive, tmp_path):
    for folder in ("images", "annotations/trimaps"):
        (tmp_path / folder).parent.mkdir(exist_ok=True)
        (tmp_path / folder).symlink_to(archive / folder)
    (tmp_path / "annotations/xmls").mkdir()
    (tmp_path / "annotations/xmls/Bombay_11.xml").touch()
    with pytest.raises(ValueError, match="None of the pictures .* in the train part"):
        load(tmp_path)


@pytest.mark.parametrize("module", ["tensorflow_datasets", "importlib_resources"])
def test_without_tfds_the_error_says_what_to_install(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "tl-unet\[examples\]"'):
        oxford_pets("tfds")


# The fixed split


@given(st.lists(st.text(min_size=1), max_size=20, unique=True))
def test_a_pictures_part_does_not_depend_on_the_others(names):
    parts = {name: pets._paper_part(name) for name in names}
    assert set(parts.values()) <= {"train", "validation", "test"}
    assert parts == {name: pets._paper_part(name) for name in reversed(names)}


def test_parts_have_the_papers_shares_for_any_names():
    parts = [pets._paper_part(f"picture_{i}") for i in range(20000)]
    assert parts.count("train") / len(parts) == pytest.approx(2210 / 3686, abs=0.02)
    assert parts.count("validation") / len(parts) == pytest.approx(738 / 3686, abs=0.02)


@pytest.fixture(scope="module")
def real_names():
    root = shared_path("oxford_pets")
    boxed = {file.stem for file in (root / "annotations/xmls").glob("*.xml")}
    lines = (root / "annotations/trainval.txt").read_text().splitlines()
    listed = {line.split()[0] for line in lines}
    return boxed, boxed & listed


def test_the_real_names_give_the_papers_counts_from_either_source(real_names):
    def counts(names):
        parts = [pets._paper_part(name) for name in names]
        return [parts.count(part) for part in ("train", "validation", "test")]

    boxed, listed = real_names
    assert counts(boxed) == [2210, 738, 738]
    assert counts(listed) == [2210, 738, 723]
    assert boxed - listed == pets._UNLISTED


def test_real_near_duplicates_share_a_part():
    with open(shared_path("oxford_pets", "NEAR_DUPLICATES.csv")) as file:
        pairs = [(row["a"], row["b"]) for row in csv.DictReader(file)]
    assert len(pairs) == 26
    assert {name for pair in pairs for name in pair} == set(pets._GROUPS)
    for a, b in pairs:
        assert pets._GROUPS[a] is pets._GROUPS[b]
        assert pets._paper_part(a) == pets._paper_part(b)


def test_real_pets_load(tmp_path):
    parts = oxford_pets(shared_path("oxford_pets"), size=64, limit=60, border="ignore")
    assert [len(subset.names) for subset in parts.values()] == [60, 20, 20]
    images, masks = (np.concatenate(x) for x in zip(*pixels(parts["train"]).values(), strict=True))
    assert 60 < images.mean() < 190
    assert set(np.unique(masks)) == {0, 1, 255}
    assert 0.15 < (masks == 1).mean() < 0.45
    breeds = {name.rsplit("_", 1)[0] for name in parts["train"].names}
    assert len(breeds) > 20  # a limit samples all breeds, not the first of the alphabet


def test_the_real_official_test_pictures_are_missed_by_name():
    with pytest.raises(FileNotFoundError, match="7338 files .*Abyssinian_2.png"):
        oxford_pets(shared_path("oxford_pets"), split="official")


@pytest.mark.slow
def test_the_real_foreground_share_is_the_papers():
    parts = oxford_pets(shared_path("oxford_pets"), size=64)
    masks = [m for subset in parts.values() for _, batch in subset.dataset for m in batch.numpy()]
    assert len(masks) == 3686
    assert np.mean(masks) == pytest.approx(0.41, abs=0.01)
