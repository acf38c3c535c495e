"""Walks through the `tl-unet` command as a new user would, on real pets, and writes what the terminal showed and three pictures for the docs.

Works in a directory that holds links to the data, so that no path of this machine is in what is shown; started anew with the same directory,
it goes on after the last command that did what it should:

python -m venv walk && walk/bin/pip install ".[cli,export]"
python tools/walk.py --command walk/bin/tl-unet --data oxford_pets/ --weights mobilenetv2_imagenet_notop.weights.h5 \\
    --work walk/work --transcript docs/guides/walk.txt --pictures docs/images
"""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))

from paper.figures import save_picture

FORMATS = {
    "saved-model": "exported/pets",
    "onnx": "exported/pets.onnx",
    "openvino": "exported/pets.xml",
    "openvino-int8": "exported/pets-int8.xml",
    "litert": "exported/pets.tflite",
    "litert-int8": "exported/pets-int8.tflite",
}
DATA = (
    "--images oxford_pets/images --masks oxford_pets/annotations/trimaps --labels 1:1,2:0,3:1 "
    "--weights mobilenetv2_imagenet_notop.weights.h5"
)
WIDTH = 110  # of the terminal


class Terminal:
    """Runs commands in the working directory and keeps what they showed, in named sections."""

    def __init__(self, command, work):
        self.command, self.work, self.sections = str(command), work, {}
        self.record = work / "walk.jsonl"
        known = self.record.read_text(encoding="utf-8") if self.record.exists() else ""
        self.known = dict(json.loads(line) for line in known.splitlines())
        self.environment = {**os.environ, "COLUMNS": str(WIDTH)}
        self.environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
        self.environment.pop("PYTHONPATH", None)

    def run(self, section, line, expected=0, stop=None):
        """Runs a line such as `tl-unet encoders`; with `stop`, presses Ctrl-C a moment after that file is there."""
        print(f"$ {line}", flush=True)
        if line not in self.known:
            shown, status = self._execute(line, stop)
            if status != expected:
                sys.exit(f"Exit status {status}; expected {expected}.")
            self.known[line] = "\n".join(text.rstrip() for text in shown.splitlines()).strip("\n")
            with self.record.open("a", encoding="utf-8") as file:
                file.write(json.dumps([line, self.known[line]], ensure_ascii=False) + "\n")
        self.sections.setdefault(section, []).append(f"$ {line}\n{self.known[line]}".rstrip())

    def _execute(self, line, stop):
        begun = time.perf_counter()
        process = subprocess.Popen(
            [self.command if word == "tl-unet" else word for word in shlex.split(line)],
            cwd=self.work,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Where this script runs in the background, Ctrl-C would be ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        if stop is not None:
            while not (self.work / stop).exists() and process.poll() is None:
                time.sleep(0.05)
            time.sleep(1)
            os.killpg(process.pid, signal.SIGINT)
        shown, _ = process.communicate()
        seconds = time.perf_counter() - begun
        print(f"{shown}[exit status {process.returncode}, {seconds:.1f} s]\n", flush=True)
        return shown, process.returncode

    def write(self, path):
        """All sections, marked for `--8<-- "file:section"`."""
        lines = []
        for name, blocks in self.sections.items():
            lines += [f"--8<-- [start:{name}]", "\n\n".join(blocks), f"--8<-- [end:{name}]", ""]
        path.write_text("\n".join(lines), encoding="utf-8")


def prepare(work, data, weights):
    """The working directory: links to the data and the weights."""
    if (work / "walk.jsonl").exists():
        return
    if work.exists() and any(work.iterdir()):
        sys.exit(f"{work} is not empty.")
    work.mkdir(parents=True, exist_ok=True)
    (work / "oxford_pets").symlink_to(data.resolve(), target_is_directory=True)
    (work / "mobilenetv2_imagenet_notop.weights.h5").symlink_to(weights.resolve())


def take_photos(work):
    """Photos that the training has not seen: two as they are, one that a camera held upright, a scene of 24 in a TIFF, a file that is no picture."""
    names = json.loads((work / "runs/pets/run.json").read_text(encoding="utf-8"))["names"]
    seen = {name for part in names.values() for name in part}
    unseen = [p for p in sorted((work / "oxford_pets/images").glob("*.jpg")) if p.stem not in seen]
    chosen = np.random.default_rng(0).permutation(len(unseen))[:27]
    pictures = [unseen[i] for i in chosen]
    photos = work / "photos"
    photos.mkdir(exist_ok=True)
    for name, source in zip(("one", "two"), pictures, strict=False):
        shutil.copy(source, photos / f"{name}.jpg")
    turned = Image.open(pictures[2])
    orientation = Image.Exif()
    orientation[0x0112] = 6  # to be turned to the right
    turned.rotate(90, expand=True).save(photos / "turned.jpg", exif=orientation, quality=95)
    cells = [
        np.asarray(Image.open(path).convert("RGB").resize((256, 256))) for path in pictures[3:]
    ]
    rows = [np.concatenate(cells[i : i + 6], axis=1) for i in range(0, 24, 6)]
    Image.fromarray(np.concatenate(rows)).save(photos / "scene.tif")
    (photos / "notes.png").write_text("not a picture\n")


def walk(terminal):
    """The commands."""
    run = terminal.run
    run("encoders", "tl-unet encoders 'mobilenet*'")
    train = f"tl-unet train {DATA} --encoder mobilenetv2 --size 128"
    run("train", f"{train} --limit 400 --epochs 6 --freeze-epochs 2 --output runs/pets")
    run("folder", "ls runs/pets")
    stopped = f"tl-unet train {DATA} --size 64 --limit 40 --epochs 3 --output runs/stopped"
    run("stopped", stopped, expected=130, stop="runs/stopped/history.csv")
    run("stopped", "tl-unet train --resume --output runs/stopped")
    run("evaluate", "tl-unet evaluate runs/pets")
    run("report", "ls runs/pets/evaluation")
    run("report", "head -n 4 runs/pets/evaluation/per_image.csv")
    take_photos(terminal.work)
    run("predict", "tl-unet predict runs/pets photos --output masks --overlay", expected=1)
    run("predict", "ls masks")
    tiled = "tl-unet predict runs/pets photos/scene.tif --tile 256 --overlap 64 --overlay"
    run("tiled", f"{tiled} --output tiled")
    run("tiled", f"{tiled} --tta --json --output averaged")
    for format, path in FORMATS.items():
        run("export", f"tl-unet export runs/pets --format {format} --output {path}")


def keep_pictures(work, folder):
    """The three pictures that the page shows."""
    pictures = {
        "walk-curves.png": work / "runs/pets/curves.png",
        "walk-worst.png": work / "runs/pets/evaluation/worst.png",
        "walk-overlay.png": work / "tiled/scene_overlay.png",
    }
    for name, path in pictures.items():
        save_picture(Image.open(path).convert("RGB"), folder / name)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--command", type=pathlib.Path, required=True, help="the tl-unet command")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="images/, annotations/")
    parser.add_argument("--weights", type=pathlib.Path, required=True, help="of MobileNetV2")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="a new directory")
    parser.add_argument("--transcript", type=pathlib.Path, required=True)
    parser.add_argument("--pictures", type=pathlib.Path, required=True, help="directory for them")
    arguments = parser.parse_args()
    prepare(arguments.work, arguments.data, arguments.weights)
    terminal = Terminal(arguments.command.absolute(), arguments.work)
    walk(terminal)
    terminal.write(arguments.transcript)
    keep_pictures(arguments.work, arguments.pictures)


if __name__ == "__main__":
    main()
