"""The pages do what they say: README and the documentation as tests.

Each page is one test that runs its ```python blocks in order in one namespace, in a temporary directory that holds what the pages
assume: `train/images`, `train/masks`, `valid/images`, `valid/masks`. ImageNet weights are random ones there, and `fit` takes one
step of one epoch, on two pictures, eagerly, since tracing graphs would take most of the time: this shows that the code of a page runs, not how well
a model learns.

Left out are blocks with `exec="on"`, which the build of the documentation runs itself, and those behind a comment
`<!-- not run: REASON -->`, which are listed as skipped.
"""

import argparse
import importlib
import pathlib
import re
import shlex
import shutil
import sys
import textwrap
import traceback
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tl_unet.data

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+?) -->")


class Block(NamedTuple):
    """A fenced block: its code, the line of the page on which that begins, and why it is not run, if it is not."""

    page: pathlib.Path
    line: int
    language: str
    info: str
    code: str
    not_run: str | None

    @property
    def place(self):
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"

    def compiled(self):
        # The empty lines make the numbers in a traceback those of the page.
        return compile("\n" * (self.line - 1) + self.code, str(self.page), "exec")


def fenced_blocks(page, text):
    """The fenced blocks of a page in order; those in lists and tabs are indented."""
    lines = iter(enumerate(text.splitlines(), 1))
    comment = None
    for number, line in lines:
        opening = FENCE.match(line)
        if not opening:
            found = NOT_RUN.search(line)
            comment = found["reason"] if found else comment if not line.strip() else None
            continue
        code = []
        for _, inner in lines:
            if inner.strip() == opening["fence"]:
                break
            code.append(inner)
        language = re.match(r"[{\s.]*([\w+-]*)", opening["info"])[1]
        code = textwrap.dedent("\n".join(code)) + "\n"
        yield Block(page, number + 1, language, opening["info"], code, comment)
        comment = None


BLOCKS = [
    block for page in PAGES for block in fenced_blocks(page, page.read_text(encoding="utf-8"))
]
PYTHON = [b for b in BLOCKS if b.language == "python" and "exec=" not in b.info]
IDLE = [b for b in PYTHON if b.not_run]


def by_page(blocks):
    """One parameter a page, so that a block sees the names of those above it."""
    pages = dict.fromkeys(block.page for block in blocks)
    return [
        pytest.param([b for b in blocks if b.page == page], id=page.relative_to(ROOT).as_posix())
        for page in pages
    ]


def write_pictures(folder, count, seed):
    """`images/*.jpg` and `masks/*.png` of 64x48 pixels; the first pair is called `first`."""
    subset = tl_unet.data.shapes(count, size=(48, 64), batch_size=count, seed=seed)
    images, masks = (np.asarray(part).astype("uint8") for part in next(iter(subset.dataset)))
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for name, image, mask in zip(["first", *subset.names[1:]], images, masks, strict=True):
        Image.fromarray(image).save(folder / "images" / f"{name}.jpg")
        Image.fromarray(255 * mask[..., 0]).save(folder / "masks" / f"{name}.png")


@pytest.fixture(scope="module")
def photographed(tmp_path_factory):
    """The pictures that the pages assume."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "train", 8, seed=0)
    write_pictures(folder / "valid", 4, seed=1)
    return folder


def two_of_each(data):
    """Two pictures of each batch of a `tf.data.Dataset`; other data as they are."""
    if not isinstance(data, tf.data.Dataset):
        return data
    return data.map(lambda *batch: tf.nest.map_structure(lambda part: part[:2], batch))


@pytest.fixture
def reader(offline, photographed, tmp_path, monkeypatch):
    """The directory of somebody who follows a page, and the shortened `fit`."""
    shutil.copytree(photographed, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    fit = keras.Model.fit

    def one_step(self, x, *args, **kwargs):
        kwargs |= {"epochs": kwargs.get("initial_epoch", 0) + 1, "steps_per_epoch": 1}
        if kwargs.get("validation_data") is not None:
            kwargs["validation_steps"] = 1
            kwargs["validation_data"] = two_of_each(kwargs["validation_data"])
        return fit(self, two_of_each(x), *args, **kwargs)

    monkeypatch.setattr(keras.Model, "fit", one_step)
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`")
@pytest.mark.parametrize("blocks", by_page([b for b in PYTHON if not b.not_run]))
def test_the_python_blocks_of_a_page_run(blocks, reader):
    namespace = {"__name__": "__main__"}
    for block in blocks:
        try:
            exec(block.compiled(), namespace)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            line = max((f.lineno for f in frames if f.filename == str(block.page)), default=0)
            page = block.page.relative_to(ROOT).as_posix()
            raise AssertionError(f"{page}:{line or block.line}: {error!r}") from error


@pytest.mark.parametrize("block", IDLE, ids=lambda block: block.place)
def test_blocks_that_cannot_run_here_are_python_at_least(block):
    block.compiled()
    pytest.skip(block.not_run)


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.place)
def test_python_blocks_are_python(block):
    block.compiled()


def test_the_pages_and_their_blocks_are_found():
    """Of lists that are empty no test would fail."""
    assert (len(PAGES) > 35, len(PYTHON) > 100, len(COMMANDS) > 20) == (True, True, True)


def test_python_is_always_called_python():
    """A block of another name would silently not be run."""
    names = {"py", "python3", "pycon", "ipython"}
    assert not [block.place for block in BLOCKS if block.language in names]


# Command lines

OUR_SCRIPT = re.compile(r"(?:examples|tools|benchmarks)/")  # others are the reader's own


def scripts_of(code):
    """The calls of the project's scripts in a block of shell: each as the script's path and its arguments."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command = []
        for word in [*lexer, ";"]:
            if word not in ("&&", "||", ";", "|"):
                command.append(word)
                continue
            while command and re.match(r"\w+=", command[0]):  # settings of the environment
                command.pop(0)
            if command[:1] == ["python"] and OUR_SCRIPT.match("".join(command[1:2])):
                yield command[1], command[2:]
            command = []


COMMANDS = [
    pytest.param(script, arguments, id=f"{block.place}-{pathlib.Path(script).name}")
    for path in [*PAGES, ROOT / "CONTRIBUTING.md"]
    for block in fenced_blocks(path, path.read_text(encoding="utf-8"))
    if block.language in ("sh", "bash", "shell", "console")
    for script, arguments in scripts_of(block.code)
]


class Parsed(Exception):
    """Raised in place of everything that a script does after it has parsed its arguments."""


@pytest.mark.parametrize(("script", "arguments"), COMMANDS)
def test_command_lines_are_understood_by_their_scripts(script, arguments, monkeypatch, capsys):
    path = ROOT / script
    assert path.is_file(), f"there is no {script}"
    if "parse_args" not in path.read_text(encoding="utf-8"):
        assert not arguments, f"{script} takes no arguments"
        return
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *args, **kwargs):
        parse_args(self, *args, **kwargs)
        raise Parsed

    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    module = importlib.import_module(path.stem)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises((Parsed, SystemExit)) as end:
        module.main()
    stopped_by_help = isinstance(end.value, SystemExit) and end.value.code == 0
    assert end.type is Parsed or stopped_by_help, capsys.readouterr().err


NAMED_FILE = re.compile(
    r"(?<![\w/.-])(?:examples|tools|tests|benchmarks|docs|tl_unet)/[\w./-]+\.(?:py|md|ipynb|png|svg)\b"
)


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_files_that_a_page_names_exist(page):
    names = set(NAMED_FILE.findall(page.read_text(encoding="utf-8")))
    assert not [name for name in sorted(names) if not (ROOT / name).exists()]


# What README and the site both say

MARKED = re.compile(
    r"<!-- (?P<name>[^:>]+?)(?:: [^>]*)? -->(?P<text>.*?)<!-- (?:/|end of )?(?P=name) -->",
    re.DOTALL,
)


def marked(text):
    """What is between `<!-- NAME -->` and `<!-- NAME -->`, `<!-- /NAME -->` or `<!-- end of NAME -->`, by name."""
    return {found["name"]: found["text"].strip() for found in MARKED.finditer(text)}


def test_marked_text_is_found_by_its_name():
    text = "<!-- a --> 1 <!-- /a --> <!-- b: by x.py --> 2 <!-- end of b --> <!-- c -->3<!-- c -->"
    assert marked(text) == {"a": "1", "b": "2", "c": "3"}


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_readme_and_site_do_not_contradict(page):
    """What both mark with one name is the same, links apart; but for the encoders, of which each has its own table."""
    ours, theirs = (marked(file.read_text(encoding="utf-8")) for file in (PAGES[0], page))
    for name in ours.keys() & theirs.keys() - {"encoder table"}:
        assert ours[name] == theirs[name], f"<!-- {name} -->: README.md and {page.name} differ"


def test_every_public_name_is_in_the_api_reference():
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    names = {f"tl_unet.{name}" for name in tl_unet.__all__ if name not in ("data", "plotting")}
    names |= {f"tl_unet.data.{name}" for name in tl_unet.data.__all__}
    documented = set(re.findall(r"^::: (\S+)$", pages, flags=re.MULTILINE))
    assert not names - documented
