"""Reruns the experiments of "U-Net Transfer Learning for Image Segmentation with Various Encoders".

    python examples/reproduce_paper.py                 # minutes, offline, synthetic pictures
    python examples/reproduce_paper.py --preset paper  # the paper's protocol; wants a GPU
    python examples/reproduce_paper.py --help

It writes `report.md`, tables, figures, histories and `results.json` into `--output`.
"""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from paper.options import INTERRUPTED, parser, resolve


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for.

    Args:
        argv: the arguments. Defaults to `None`: those of the process.

    Returns:
        The exit status (see `--help`).
    """
    argv = sys.argv[1:] if argv is None else argv
    command_line = parser()
    given = command_line.parse_args(argv)
    stored = given.output / "results.json"
    if given.overwrite and given.resume:
        command_line.error("--overwrite and --resume exclude each other")
    if stored.exists() and not (given.overwrite or given.resume):
        command_line.error(
            f"{given.output} already holds a run: go on with it (--resume), replace it (--overwrite), or choose another --output"
        )
    if given.resume and not stored.exists():
        command_line.error(
            f"{given.output} holds no run to go on with: begin one without --resume, or give its --output"
        )
    found = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else None
    if found is not None and "configuration" not in found:
        command_line.error(
            f"{stored} is of something else, not a run of this script: choose another --output"
        )
    if found is None and any((given.output / name).exists() for name in ("history", "models")):
        command_line.error(
            f"{given.output} holds parts of a run without its results.json: choose another --output"
        )
    previous = found if given.resume else None
    try:
        options = resolve(given, previous and previous["configuration"])
    except ValueError as error:
        command_line.error(str(error))
    # Only now that the options are known to be right, and only a run's own folder. What marks it as one goes last.
    if given.overwrite and stored.exists():
        for name in ("history", "models", "predictions", "figures", "source", "features"):
            shutil.rmtree(given.output / name, ignore_errors=True)
        for name in ("report.md", "table1.md", "table2.md", "results.json"):
            (given.output / name).unlink(missing_ok=True)

    # It imports TensorFlow: not for --help or a typing error.
    from paper.experiment import Experiment, UnreadablePictures

    command = previous["command"] if previous else shlex.join(["python", sys.argv[0], *argv])
    if previous and options.epochs != previous["configuration"]["epochs"]:
        skipped = [m for m in previous["models"].values() if m["status"] == "skipped"]
        if previous["status"] == "complete" and not skipped:
            command_line.error(
                f"the run in {given.output} is complete; train {options.epochs} epochs in another --output"
            )
        command += f" --epochs {options.epochs}"  # the last one counts
    try:
        return Experiment(options, Path(given.output), command, previous, given.feature_cache).run()
    except UnreadablePictures as error:
        command_line.error(f"--data {options.data}: {error}")
    except KeyboardInterrupt:
        print(
            f"\nInterrupted. Go on with: python {sys.argv[0]} --output {given.output} --resume",
            file=sys.stderr,
        )
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
