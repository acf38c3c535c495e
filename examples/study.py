"""The studies behind the results pages: many runs of `reproduce_paper.py`, one change at a time, summed up in tables.

Each row of a study is one run with its own directory; rows that are complete are skipped and an interrupted one is resumed, so the same
command goes on wherever it was stopped.

    python examples/study.py confounds --data oxford_pets/ --weights-dir weights/ --output runs/study
    python examples/study.py --list
"""

import argparse
import dataclasses
import json
import pathlib
import shlex
import statistics
import subprocess
import sys

from paper.files import write_text

SCRIPT = pathlib.Path(__file__).with_name("reproduce_paper.py")
COLUMNS = {
    "validation hard IoU": ("validation", "hard_iou"),
    "test hard IoU": ("test", "hard_iou"),
    "test soft Dice": ("test", "dice"),
    "test accuracy": ("test", "accuracy"),
    "exactly 0.5": ("validation", "half"),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One setting, run once for each seed.

    Args:
        name: of its directory, and in the table.
        model: one of the paper's.
        options: further options of `reproduce_paper.py`.
    """

    name: str
    model: str
    options: str


@dataclasses.dataclass(frozen=True)
class Study:
    """A question, the options that all its rows share, its seeds and its rows."""

    question: str
    common: str
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]


_SMALL = "--size 96 --batch-size 32 --limit 0 --recipe paper"
STUDIES = {
    # 1e-4 and 10 epochs instead of the paper's 1e-5 and 50: the curves flatten in a tenth of the time.
    "confounds": Study(
        "What do the wrong preprocessing and the narrow last stage cost, each alone and both together?",
        f"{_SMALL} --learning-rate 1e-4 --epochs 10",
        (0, 1, 2),
        tuple(
            Row(f"munet-{preprocessing}-{stage}", "munet", f"--preprocessing {preprocessing} --last-stage {stage}")
            for preprocessing in ("rescale", "encoder")
            for stage in ("narrow", "normal")
        )
        + tuple(
            Row(f"vunet-{preprocessing}", "vunet", f"--preprocessing {preprocessing}")
            for preprocessing in ("rescale", "encoder")
        ),
    ),
    "questions": Study(
        "Does another loss, another optimizer or augmentation help M-Unet?",
        "--size 96 --batch-size 32 --limit 0 --recipe corrected --epochs 8",
        (0,),
        (
            Row("dice", "munet", ""),
            *(Row(f"loss-{loss}", "munet", f"--loss {loss}") for loss in ("bce", "dice+bce", "tversky", "lovasz")),
            Row("optimizer-adamw", "munet", "--optimizer adamw"),
            Row("optimizer-sgd", "munet", "--optimizer sgd --learning-rate 0.01"),
            Row("optimizer-rmsprop", "munet", "--optimizer rmsprop"),
            Row("augmented", "munet", "--augment"),
        ),
    ),
}  # fmt: skip


def command(study, row, seed, arguments):
    """The options of one run."""
    options = f"{study.common} {row.options} --models {row.model} --seed {seed}"
    places = ["--data", arguments.data, "--weights-dir", arguments.weights_dir]
    return [*shlex.split(options), *places]


def read(folder):
    """The results of a run, or `None` if there are none yet."""
    path = folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else None


def run(name, arguments):
    """Runs what is missing of a study; the table is rewritten after each run."""
    study = STUDIES[name]
    # All rows with the first seed before the second seed: an unfinished study is still a comparison.
    for seed in study.seeds:
        for row in study.rows:
            folder = arguments.output / name / f"{row.name}-seed{seed}"
            results = read(folder)
            if results is None or results["status"] != "complete":
                resume = ["--resume"] if results else []
                call = [*command(study, row, seed, arguments), "--output", str(folder), *resume]
                print(f"\n== {name}: {row.name}, seed {seed}", flush=True)
                status = subprocess.run([sys.executable, str(SCRIPT), *call]).returncode
                if status:
                    sys.exit(status)
            write_text(arguments.output / name / "table.md", table(name, arguments.output))


def table(name, output):
    """The mean of each row over its seeds, and from the least to the greatest where there are several."""
    study = STUDIES[name]
    lines = [
        f"{study.question}",
        "",
        f"All rows: `{study.common}`.",
        "",
        f"| row | change | seeds | {' | '.join(COLUMNS)} |",
        f"| --- | --- | ---: |{' ---: |' * len(COLUMNS)}",
    ]
    for row in study.rows:
        runs = [read(output / name / f"{row.name}-seed{seed}") for seed in study.seeds]
        done = [r["models"][row.model] for r in runs if r and r["status"] == "complete"]
        cells = [_cell([model[part][score] for model in done]) for part, score in COLUMNS.values()]
        lines.append(f"| {row.name} | `{row.options or '-'}` | {len(done)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(values):
    if not values:
        return "not run"
    spread = f" ({min(values):.4f} to {max(values):.4f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "studies", nargs="*", metavar="STUDY", help=f"of {', '.join(STUDIES)}; default: all"
    )
    parser.add_argument("--list", action="store_true", help="print the studies and stop")
    parser.add_argument("--data", default="tfds", help="as in reproduce_paper.py")
    parser.add_argument("--weights-dir", default="weights", help="as in reproduce_paper.py")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/study"))
    arguments = parser.parse_args()
    unknown = set(arguments.studies) - set(STUDIES)
    if unknown:
        parser.error(f"unknown study {', '.join(unknown)}; there are {', '.join(STUDIES)}")
    for name in arguments.studies or STUDIES:
        if arguments.list:
            study = STUDIES[name]
            print(f"{name}: {study.question} {len(study.rows)} rows, {len(study.seeds)} seeds")
        else:
            run(name, arguments)


if __name__ == "__main__":
    main()
