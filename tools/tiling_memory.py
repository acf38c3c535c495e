"""Measures what `predict_tiled` keeps in memory for an image on disk, in a process of its own (Linux).

The image and its mask are memory-mapped files, whose pages the kernel keeps as long as it has room and drops when it has not. So two peaks
are told: of all resident memory, with those pages, and of the process' own (anonymous) memory, without them. Both are counted above
what the process had with the model built and nothing predicted yet.

python tools/tiling_memory.py --output docs/tutorials/tiling-memory.md
"""

import argparse
import json
import pathlib
import platform
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version

KINDS = ("VmHWM", "VmRSS", "RssAnon")


def memory():
    """MiB of this process: the peak of what was resident, what is, and what of that lies in no file."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return {kind: int(values[kind].split()[0]) / 1024 for kind in KINDS}


class Watch(threading.Thread):
    """Looks at the anonymous memory, of which the kernel keeps no peak, twenty times a second."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.done = 0.0, threading.Event()

    def run(self):
        """Looks until `done`."""
        while not self.done.wait(0.05):
            self.peak = max(self.peak, memory()["RssAnon"])


def predict(arguments, folder):
    """Predicts one image on disk and prints what that took, as JSON: the child process."""
    import numpy as np

    import tl_unet

    side, generator = arguments.side, np.random.default_rng(0)
    scene = np.memmap(f"{folder}/scene", "uint8", "w+", shape=(side, side, 3))
    for top in range(0, side, 256):
        rows = scene[top : top + 256]
        rows[:] = generator.integers(0, 256, rows.shape, "uint8")
    scene.flush()
    del rows  # which holds the first mapping, whose pages would count as the model's
    scene = np.memmap(f"{folder}/scene", "uint8", "r", shape=(side, side, 3))
    mask = np.memmap(f"{folder}/mask", "float32", "w+", shape=(side, side, 1))
    model = tl_unet.build_unet(
        arguments.encoder, weights=None, freeze=False, normalization="batch", upsampling="nearest"
    )
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, watch = memory(), Watch()
    watch.start()
    begun = time.perf_counter()

    def progress(done, total):
        print(f"\r{done} of {total} tiles", end="", file=sys.stderr)

    tl_unet.predict_tiled(
        model,
        scene,
        arguments.tile,
        arguments.overlap,
        arguments.batch_size,
        output=mask,
        progress=progress,
    )
    seconds = time.perf_counter() - begun
    watch.done.set()
    print(file=sys.stderr)
    after = memory()
    found = {
        "resident": after["VmHWM"] - before["VmRSS"],
        "anonymous": watch.peak - before["RssAnon"],
        "files": (scene.nbytes + mask.nbytes) / 2**20,
        "seconds": seconds,
        "parameters": model.count_params(),
        "filled": bool(np.isfinite(mask[-1]).all() and mask[-1].any()),
    }
    print(json.dumps(found))


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=10_000, help="of the image, in pixels")
    parser.add_argument("--encoder", default="mobilenetv3small")
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--overlap", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--output", type=pathlib.Path, help="the table, Markdown")
    parser.add_argument("--child", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        predict(arguments, arguments.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *sys.argv, "--child", folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    if not found["filled"]:
        sys.exit("The last row of the mask was not written.")
    side = f"{arguments.side:,}"
    text = f"""\
| memory | MiB |
| --- | ---: |
| the process' own at most, above the model | {found["anonymous"]:,.0f} |
| all that was resident at most, above the model, with pages of the two files | {found["resident"]:,.0f} |
| the two files (image uint8, mask float32) | {found["files"]:,.0f} |

An image of {side} x {side} x 3 in tiles of {arguments.tile} with an overlap of {arguments.overlap}, {arguments.batch_size} at once; a U-Net on \
{arguments.encoder} ({found["parameters"]:,} parameters), {found["seconds"]:.0f} s on {platform.machine()} with other work beside it. Python {platform.python_version()}, \
Keras {version("keras")}, TensorFlow {version("tensorflow")}. Made by `python tools/tiling_memory.py`.
"""
    if arguments.output:
        arguments.output.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
