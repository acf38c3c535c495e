"""Judges several runs of `train_pets.py` as one model: the mean of their masks.

The runs can be of other seeds or recipes, trained one after another, on a core each, or on several machines. The model is saved beside its scores,
and `train_pets.py --output RUN --evaluate IMAGES MASKS` judges it as any other.

    python examples/train_pets.py --seed 0 --output runs/pets-0
    python examples/train_pets.py --seed 1 --output runs/pets-1
    python examples/ensemble_pets.py runs/pets-0 runs/pets-1 --output runs/pets-both
"""

import argparse
import json
import pathlib
import shlex
import sys

import keras
import pets_model  # noqa: F401 - models were saved with what it registers
from paper.environment import environment
from paper.errors import as_usage_errors
from paper.files import replacing, write_json
from pets_recipes import Stage
from train_pets import evaluate, load_data

import tl_unet

# Of each run, in the results.
KEPT = (
    *("command", "environment", "recipe", "encoder", "stages", "seed", "limit"),
    *("pictures", "seconds", "validation", "test"),
)


def read_runs(folders, parser):
    """What the finished runs found out, and their models; an error tells what does not go together."""
    runs = []
    for folder in folders:
        for name in ("results.json", "model.keras"):
            if not (folder / name).is_file():
                parser.error(
                    f"there is no {folder / name}: finish that run of train_pets.py first (--resume)"
                )
        runs.append(json.loads((folder / "results.json").read_text(encoding="utf-8")))
        missing = [name for name in KEPT if name not in runs[-1]]
        if missing:
            parser.error(
                f"{folder / 'results.json'} is not of a run of this train_pets.py: it lacks {', '.join(missing)}"
            )
    sizes = [run["stages"][-1]["size"] for run in runs]
    judged = {"size": sizes}
    judged |= {name: [run[name] for run in runs] for name in ("limit", "pictures")}
    for name, values in judged.items():
        if any(value != values[0] for value in values):
            found = ", ".join(f"{folder}: {v}" for folder, v in zip(folders, values, strict=True))
            parser.error(f"the runs were judged on different pictures by their {name} ({found})")
    return runs, [
        keras.saving.load_model(folder / "model.keras", compile=False) for folder in folders
    ]


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", type=pathlib.Path, nargs="+", help="two or more --output of train_pets.py")
    add(
        "--data",
        default="tfds",
        help="tfds (default), or the directory of the unpacked official archives",
    )
    add(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs/pets-ensemble"),
        help="default: runs/pets-ensemble",
    )
    arguments = parser.parse_args()
    if len({path.resolve() for path in arguments.runs}) < max(2, len(arguments.runs)):
        parser.error("an ensemble needs two different runs or more")
    if (arguments.output / "results.json").exists():
        parser.error(f"{arguments.output} holds results: give another --output")
    runs, models = read_runs(arguments.runs, parser)
    model = tl_unet.ensemble(models)
    last = Stage(**runs[0]["stages"][-1])
    arguments.seed = 0  # of the order of pictures, which judging does not depend on
    arguments.limit = runs[0]["limit"]
    with as_usage_errors(parser):
        data = load_data(arguments, last, augmented=False)
    pictures = {part: len(subset.names) for part, subset in data.items()}
    if pictures != runs[0]["pictures"]:
        parser.error(
            f"--data {arguments.data} has other pictures ({pictures}) than the runs were judged on ({runs[0]['pictures']})"
        )
    arguments.output.mkdir(parents=True, exist_ok=True)
    with replacing(arguments.output / "model.keras") as beside:
        model.save(beside)
    results = {
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment(),
        "limit": arguments.limit,
        "pictures": pictures,
        "members": [
            {
                "run": str(folder),
                **{name: run[name] for name in KEPT},
            }
            for folder, run in zip(arguments.runs, runs, strict=True)
        ],
        "seconds": sum(run["seconds"] for run in runs),
        "stages": runs[0]["stages"][-1:],  # whose pictures it is judged on
        # Whether the ensemble is better than its members is for the validation pictures to say.
        "validation": evaluate(model, data["validation"].dataset, "Validation"),
        "test": evaluate(model, data["test"].dataset, "Test"),
    }
    write_json(arguments.output / "results.json", results)


if __name__ == "__main__":
    main()
