"""The studies behind the results pages: many runs of `reproduce_paper.py`, one change at a time, summed up in tables.

Each row of a study is one run with its own directory; rows that are complete are skipped and an interrupted one is resumed, so the same
command goes on wherever it was stopped.

    python examples/study.py confounds --data oxford_pets/ --weights-dir weights/ --output runs/study
    python examples/study.py claim --rows dunet,runet --weights-dir weights/
    python examples/study.py --list
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys

from paper.files import write_text
from paper.options import SKIPPED, parser, resolve
from paper.published import PUBLISHED
from paper.recipes import MODELS

PLACES = ("data", "weights_dir")  # which may differ from machine to machine
SCRIPT = os.path.relpath(pathlib.Path(__file__).with_name("reproduce_paper.py"))
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
    """Some runs that answer a question together.

    Args:
        question: as its table asks it.
        common: options of `reproduce_paper.py` that all rows share.
        seeds: each row is run once with each.
        rows: the settings that are compared.
        published: whether the rows are the paper's models, so that the paper's figures belong beside them.
    """

    question: str
    common: str
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    published: bool = False


# The learning rate 1e-4 and few epochs, where the paper has 1e-5 and 50: Adam's steps are ten times as long, so the curves flatten in
# about a tenth of the time.
_SHORT = "--preset paper --recipe paper --learning-rate 1e-4"
STUDIES = {
    "claim": Study(
        "Does transfer learning beat a U-Net from scratch, and fine-tuning a frozen encoder, with the paper's own recipe?",
        f"{_SHORT} --size 96",
        (0,),
        (
            Row("unet", "unet", "--epochs 18 --mixed-precision"),
            Row("vunet", "vunet", "--epochs 10 --mixed-precision"),
            Row("vunet-finetuned", "vunet-finetuned", "--epochs 8 --mixed-precision"),
            Row("dunet", "dunet", "--epochs 8 --mixed-precision"),
            Row("runet", "runet", "--epochs 8 --mixed-precision"),
            Row("munet", "munet", "--epochs 10 --mixed-precision"),
        ),
        published=True,
    ),
    "corrected": Study(
        "What do the same models reach with each encoder's own preprocessing, a normal last stage and normalisation?",
        "--preset paper --recipe corrected --mixed-precision --size 96",
        (0,),
        (
            Row("vunet", "vunet", "--epochs 3"),
            # In float32: the processor it was run on has no bfloat16.
            Row("vunet-finetuned", "vunet-finetuned", "--epochs 3 --mixed-precision off"),
            Row("dunet", "dunet", "--epochs 4"),
            Row("runet", "runet", "--epochs 4"),
            Row("munet", "munet", "--epochs 4"),
        ),
        published=True,
    ),
    "confounds": Study(
        "What do the wrong preprocessing and the narrow last stage cost, each alone and both together?",
        f"{_SHORT} --mixed-precision",
        (0, 1, 2),
        tuple(
            Row(
                f"munet-{preprocessing}-{stage}",
                "munet",
                f"--size 64 --epochs 3 --preprocessing {preprocessing} --last-stage {stage}",
            )
            for preprocessing in ("rescale", "encoder")
            for stage in ("narrow", "normal")
        )
        + tuple(
            Row(f"vunet-{preprocessing}", "vunet", f"--size 48 --epochs 6 --preprocessing {preprocessing}")
            for preprocessing in ("rescale", "encoder")
        ),
    ),
    "questions": Study(
        "Does another loss, another optimizer or augmentation help M-Unet?",
        "--preset paper --recipe corrected --size 48 --epochs 4 --mixed-precision",
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
    "features": Study(
        "What is it worth to normalise the maps of VGG16, which has no normalisation of its own?",
        "--preset paper --recipe corrected --size 48 --epochs 4 --mixed-precision",
        (0, 1, 2),
        (
            Row("vunet-normalized", "vunet", ""),
            Row("vunet-as-they-are", "vunet", "--normalize-features off"),
        ),
    ),
    "rate": Study(
        "What does the paper's own learning rate of 1e-5 reach in its 50 epochs?",
        "--preset paper --recipe paper --mixed-precision --size 32",
        (0,),
        tuple(Row(name, name, "") for name in ("vunet", "dunet", "runet", "munet")),
        published=True,
    ),
}  # fmt: skip


def settings(study, row, seed):
    """The options of one run, without the places of its data."""
    return shlex.split(f"{study.common} {row.options} --models {row.model} --seed {seed}")


def command(study, row, seed, arguments):
    """The options of one run."""
    places = ["--data", arguments.data, "--weights-dir", arguments.weights_dir]
    return [*settings(study, row, seed), *places]


def check(study, row, seed, path):
    """Ends the program if a complete run was made with other options: its numbers do not belong in the study's table."""
    configuration = stored(path)["configuration"]
    wanted = dataclasses.asdict(resolve(parser().parse_args(settings(study, row, seed)), None))
    changed = [
        name.replace("_", "-")
        for name, value in wanted.items()
        if name not in PLACES and name in configuration and configuration[name] != value
    ]
    if changed:
        sys.exit(
            f"{path.parent} holds a complete run with another --{', --'.join(changed)} than the study's: give another --output."
        )


def read(path, row):
    """What a finished run found out about its model, by its `results.json`, or `None` if there is nothing yet."""
    results = stored(path)
    if results is None or results["status"] != "complete":
        return None
    entry = results["models"][row.model]
    return entry if "validation" in entry else None  # it was skipped, or diverged at once


def stored(path):
    """The results of a run, finished or not, or `None` if it has not begun."""
    return json.loads(path.read_text()) if path.exists() else None


def results_path(output, name, row, seed):
    """Where a run of a study writes its results."""
    return output / name / f"{row.name}-seed{seed}" / "results.json"


def run(name, arguments):
    """Runs what is missing of a study; the table is rewritten after each run."""
    study = STUDIES[name]
    asked = [row for row in study.rows if arguments.rows is None or row.name in arguments.rows]
    # All rows with the first seed before the second seed: an unfinished study is still a comparison.
    for seed in study.seeds:
        for row in asked:
            path = results_path(arguments.output, name, row, seed)
            if read(path, row):
                check(study, row, seed, path)
            else:
                resume = ["--resume"] if stored(path) else []
                call = [
                    *command(study, row, seed, arguments),
                    "--output",
                    str(path.parent),
                    *resume,
                ]
                print(f"\n== {name}: {row.name}, seed {seed}", flush=True)
                status = subprocess.run([sys.executable, SCRIPT, *call]).returncode
                if status not in (0, SKIPPED):
                    sys.exit(status)
            write_text(arguments.output / name / "table.md", table(name, arguments.output))


def table(name, output, path_of=results_path):
    """The question, and what each row has found.

    Args:
        name: of the study.
        output: the directory that holds the studies.
        path_of: function of output, name, row and seed: where the results of a run are.

    Returns:
        Markdown.
    """
    study = STUDIES[name]
    found = []
    for row in study.rows:
        runs = [read(path_of(output, name, row, seed), row) for seed in study.seeds]
        found.append((row, [run for run in runs if run]))
    rows = _beside_the_paper(found) if study.published else _means(found)
    return f"{study.question}\n\nAll rows: `{study.common}`.\n\n" + "\n".join(rows) + "\n"


def _means(found):
    """The mean of each row over its seeds, and from the least to the greatest where there are several."""
    yield f"| row | change | seeds | {' | '.join(COLUMNS)} |"
    yield f"| --- | --- | ---: |{' ---: |' * len(COLUMNS)}"
    for row, runs in found:
        cells = [_mean([run[part][score] for run in runs]) for part, score in COLUMNS.values()]
        yield f"| {row.name} | `{row.options or '-'}` | {len(runs)} | {' | '.join(cells)} |"


def _mean(values):
    if not values:
        return "not run here"
    spread = f" ({min(values):.4f} to {max(values):.4f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def _beside_the_paper(found):
    """Each of the paper's models with the paper's validation scores; soft ones, as the paper's are."""
    scores = ("dice", "iou", "accuracy")
    header = [f"{score}, {whose}" for score in scores for whose in ("paper", "ours")]
    header += ["hard IoU", "hard IoU, test", "exactly 0.5", "best epoch", "s/epoch"]
    yield f"| model | change | {' | '.join(header)} |"
    yield f"| --- | --- |{' ---: |' * len(header)}"
    for row, runs in found:
        paper = PUBLISHED[row.model].table1
        cells = []
        for run in runs[:1]:
            best = run["validation"]
            for theirs, score in zip(paper, scores, strict=True):
                cells += [f"{theirs:.4f}", f"{best[score]:.4f}"]
            cells += [f"{best['hard_iou']:.4f}", f"{run['test']['hard_iou']:.4f}"]
            cells += [f"{best['half']:.1%}", f"{run['best_epoch']} of {run['epochs']}"]
            cells += [f"{run['seconds_per_epoch']:.0f}"]
        if not runs:
            cells = [cell for theirs in paper for cell in (f"{theirs:.4f}", "not run here")]
            cells += ["not run here"] * 2 + ["–"] * 3
        title = MODELS[row.model].title
        yield f"| {title} | `{row.options or '-'}` | {' | '.join(cells)} |"


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "studies", nargs="*", metavar="STUDY", help=f"of {', '.join(STUDIES)}; default: all"
    )
    parser.add_argument("--list", action="store_true", help="print the studies and stop")
    parser.add_argument(
        "--rows",
        type=lambda text: set(text.split(",")),
        help="only these rows of it, comma-separated; default: all. Several processes may share an --output if their rows differ",
    )
    parser.add_argument("--data", default="tfds", help="as in reproduce_paper.py")
    parser.add_argument("--weights-dir", default="weights", help="as in reproduce_paper.py")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/study"))
    arguments = parser.parse_args()
    unknown = set(arguments.studies) - set(STUDIES)
    if unknown:
        parser.error(f"unknown study {', '.join(unknown)}; there are {', '.join(STUDIES)}")
    names = arguments.studies or list(STUDIES)
    strange = (arguments.rows or set()) - {row.name for name in names for row in STUDIES[name].rows}
    if strange:
        parser.error(f"no row {', '.join(strange)} in {', '.join(names)}; --list shows them")
    for name in names:
        if arguments.list:
            study = STUDIES[name]
            print(f"{name}: {study.question} Seeds: {study.seeds}. {study.common}")
            for row in study.rows:
                print(f"  {row.name}: {row.options or 'as it is'}")
        else:
            run(name, arguments)


if __name__ == "__main__":
    main()
