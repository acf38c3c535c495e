"""Collects finished runs of `examples/study.py` and `examples/train_pets.py` for the results pages, and draws their figures.

    python tools/results.py --studies runs/study --pets runs/pets --authors logs/ --data oxford_pets/

For each run, `docs/results/` gets its `results.json` and its history as they are. Tables and figures are then made of the files that are there, of these runs and
of earlier ones: for each study, its table; for each of the paper's models, its curves with the authors' own behind them (with those of the paper's recipe behind those of the corrected
one). `--authors` is the directory of the authors' logs (`munet.csv`, ...). The short table of the study "claim" is written into README.md and the results page, where its marks
are, and so are the scores of the pets recipe.
"""

import argparse
import json
import pathlib
import shutil
import sys
import types

import keras
import numpy as np
from marks import insert
from matplotlib.figure import Figure
from scipy.stats import spearmanr

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from paper import pictures  # noqa: E402
from paper.figures import PANELS, PICTURES, save  # noqa: E402
from paper.files import write_text  # noqa: E402
from paper.published import PUBLISHED  # noqa: E402
from paper.recipes import MODELS  # noqa: E402
from paper.training import best_epoch, read_history  # noqa: E402
from study import STUDIES, check, read, results_path, stored, table  # noqa: E402

from tl_unet import plotting  # noqa: E402

RESULTS = ROOT / "docs" / "results"
PAPER_RATE = 1e-5
AUTHORS_COLUMNS = {"dice_coef": "dice", "binary_accuracy": "accuracy", "iou": "iou"}


# The frozen encoders' top-1 accuracy on ImageNet, in percent, as the documentation of Keras Applications lists it.
IMAGENET = {"vunet": 71.3, "dunet": 75.0, "runet": 74.9, "munet": 71.3}
PAGES = (ROOT / "README.md", RESULTS / "index.md")
BESIDE = {"corrected": "claim"}  # studies whose curves have those of another behind them
START, END = "<!-- claim: python tools/results.py -->", "<!-- end of claim -->"
PETS_START, PETS_END = "<!-- pets: python tools/results.py -->", "<!-- end of pets -->"


def authors_history(path):
    """The authors' log of a model, with our names for its columns; their loss is minus the Dice coefficient, ours 1 minus it."""
    log = read_history(path)
    history = {}
    for prefix in ("", "val_"):
        for theirs, ours in AUTHORS_COLUMNS.items():
            history[prefix + ours] = log[prefix + theirs]
        history[f"{prefix}loss"] = [1 + loss for loss in log[f"{prefix}loss"]]
    return history


def kept_path(root, study, row, seed):
    """Where the results of a run are kept; its history is beside them."""
    return root / study / f"{row.name}-seed{seed}.json"


def overlay(study, row, authors):
    """A run's curves with others behind them: another study's, or the authors', their epochs drawn to the length of ours."""
    path = kept_path(RESULTS, study, row, STUDIES[study].seeds[0])
    history = read_history(path.with_suffix(".csv"))
    if study in BESIDE:
        other = read_history(RESULTS / BESIDE[study] / path.with_suffix(".csv").name)
        label, pace = "the paper's recipe", 1
        title = "the corrected recipe and the paper's"
    else:
        other = authors_history(authors / f"{row.model.replace('-', '_')}.csv")
        pace = read(path, row)["learning_rate"] / PAPER_RATE
        label = "authors" + (f" ({pace:g} epochs on one)" if pace != 1 else "")
        title = "our run and the authors'"
    return plotting.learning_curves(
        history,
        PANELS,
        reference=other,
        reference_label=label,
        reference_pace=pace,
        best_epoch=best_epoch(history),
        title=f"{MODELS[row.model].title}, {title}",
    )


def collect(name, studies, authors):
    """Copies what there is of a study, and draws it."""
    study, target = STUDIES[name], RESULTS / name
    target.mkdir(parents=True, exist_ok=True)
    for row in study.rows:
        for seed in study.seeds:
            path, kept = results_path(studies, name, row, seed), kept_path(RESULTS, name, row, seed)
            if read(path, row):
                check(study, row, seed, path)
                shutil.copy(path, kept)
                shutil.copy(path.parent / "history" / f"{row.model}.csv", kept.with_suffix(".csv"))
        if study.published and kept_path(RESULTS, name, row, study.seeds[0]).exists():
            save(overlay(name, row, authors), target / f"{row.name}.png")
    write_text(target / "table.md", table(name, RESULTS, kept_path))


def prediction_figure(name, studies, data, partly=False):
    """What the models of a study predict for the same test pictures, side by side."""
    columns, heads, missing = {}, {}, []
    for row in STUDIES[name].rows:
        path = results_path(studies, name, row, STUDIES[name].seeds[0])
        folder = path.parent
        if not read(path, row) and first_run(name, row, RESULTS):
            missing.append(row.name)
        if read(path, row):
            title = MODELS[row.model].title
            columns[title] = np.load(folder / "predictions" / f"{row.model}.npy")
            heads[title] = head(folder / "models" / f"{row.model}.keras")
            options = stored(path)["configuration"]
    if missing and not partly:  # models are not kept with the results
        print(
            f"{name}: the picture of predictions stays as it is: {', '.join(missing)} are not in {studies}; "
            f"--partly {name} draws it without them"
        )
    elif columns:
        parts = pictures.load(types.SimpleNamespace(**options | {"data": data}))
        images, masks, names = pictures.examples(parts, PICTURES)
        figure = plotting.prediction_panel(images, masks, columns, names=names)
        save(figure, RESULTS / name / "predictions.png")
        write_text(RESULTS / name / "predictions.md", spread(columns, heads))


def head(path):
    """The weights and the bias of a saved model's last layer."""
    kernel, bias = keras.saving.load_model(path, compile=False).get_layer("logits").get_weights()
    return kernel.ravel(), float(bias[0])


def spread(columns, heads):
    """How the probabilities are spread over the pictures of the figure: a dead last stage has one value, its bias', for all of the animal.

    Args:
        columns: arrays of probabilities by the model's title.
        heads: as many pairs of the head's weights and bias.

    Returns:
        Markdown.
    """
    lines = ["| model | least | greatest | pixels within 0.001 of the greatest | sigmoid of the head's bias | weights of the head |"]  # fmt: skip
    lines.append("| --- | ---: | ---: | ---: | ---: | --- |")
    for title, probabilities in columns.items():
        least, greatest = probabilities.min(), probabilities.max()
        share = (probabilities > greatest - 1e-3).mean()
        kernel, bias = heads[title]
        signs = f"{(kernel > 0).sum()} positive, {(kernel < 0).sum()} negative"
        alone = 1 / (1 + np.exp(-bias))
        lines.append(
            f"| {title} | {least:.4f} | {greatest:.4f} | {share:.0%} | {alone:.4f} | {signs} |"
        )
    return "\n".join([*lines, ""])


def dots(name, title):
    """The test scores of each row of a study: a dot a seed, a bar at their mean."""
    rows = [
        (row.name, runs)
        for row in STUDIES[name].rows
        if (
            runs := [
                run["test"]
                for seed in STUDIES[name].seeds
                if (run := read(kept_path(RESULTS, name, row, seed), row))
            ]
        )
    ]
    if not rows:
        return
    figure = Figure(figsize=(9, 0.4 * len(rows) + 1.3), layout="constrained", dpi=100)
    panels = figure.subplots(1, 2, sharey=True)
    scores = {"hard_iou": "test IoU over the data set, threshold 0.5", "dice": "test soft Dice"}
    for panel, (score, label) in zip(panels, scores.items(), strict=True):
        for height, (_, runs) in enumerate(rows):
            values = [run[score] for run in runs]
            panel.plot(values, [height] * len(values), "o", color="#1f77b4", alpha=0.8)
            panel.plot(
                np.mean(values), height, "|", color="#d95f02", markersize=22, markeredgewidth=2.5
            )
        panel.set_xlabel(label)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(rows)), [label for label, _ in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.suptitle(f"{title}\n(a dot a seed, the bar is the mean)", fontsize=10)
    save(figure, RESULTS / name / "scores.png")


def first_run(study, row, root):
    """What a row found with the study's first seed, or `None`."""
    return read(kept_path(root, study, row, STUDIES[study].seeds[0]), row)


def summary(root=RESULTS):
    """The study "claim" in short, as Markdown: the paper's scores beside ours."""
    lines = [
        "| model | soft Dice, paper | soft Dice, ours | IoU, validation | IoU, test | epochs |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in STUDIES["claim"].rows:
        run = first_run("claim", row, root)
        cells = ["not run here"] * 3 + ["–"]
        if run:
            best = run["validation"]
            cells = [f"{best['dice']:.3f}", f"{best['hard_iou']:.3f}", f"{run['test']['hard_iou']:.3f}"]  # fmt: skip
            cells += [f"{run['best_epoch']} of {run['epochs']}"]
        paper = f"{PUBLISHED[row.model].table1[0]:.4f}"
        lines.append(f"| {MODELS[row.model].title} | {paper} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ranks(root=RESULTS):
    """Whether the accuracy of frozen encoders on ImageNet goes with their scores in a U-Net: rank correlations, as Markdown."""
    ours = {
        study: {
            row.model: run["validation"]["hard_iou"]
            for row in STUDIES[study].rows
            if row.model in IMAGENET and (run := first_run(study, row, root))
        }
        for study in ("claim", "corrected")
    }
    scores = {
        "paper, validation Dice (soft)": {n: PUBLISHED[n].table1[0] for n in IMAGENET},
        "paper, test Dice (soft)": {n: PUBLISHED[n].test[0] for n in IMAGENET},
        "ours, the paper's recipe, validation IoU": ours["claim"],
        "ours, corrected recipe, validation IoU": ours["corrected"],
    }
    titles = [f"{MODELS[name].title} ({accuracy} %)" for name, accuracy in IMAGENET.items()]
    lines = [f"| score | {' | '.join(titles)} | rank correlation |"]
    lines.append(f"| --- |{' ---: |' * (len(titles) + 1)}")
    for what, found in scores.items():
        if not found:
            continue
        cells = [f"{found[name]:.3f}" if name in found else "not run here" for name in IMAGENET]
        lines.append(f"| {what} | {' | '.join(cells)} | {_rank_correlation(found)} |")
    return "\n".join([*lines, ""])


def _rank_correlation(scores):
    accuracies = [IMAGENET[name] for name in scores]
    if len(set(accuracies)) < 2:
        return "none: no two differ on ImageNet"
    return f"{spearmanr(accuracies, list(scores.values())).statistic:+.2f}, of {len(scores)}"


def pets_table(results):
    """The scores of the pets recipe on its test pictures in each view, and the validation IoU they are chosen by, as Markdown."""
    lines = [
        "| views averaged | IoU, validation | IoU, test | IoU per image, test | Dice, test | accuracy, test |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for view, test in results["test"].items():
        scores = [results["validation"][view]["iou"]]
        scores += [test[name] for name in ("iou", "iou_per_image", "dice", "accuracy")]
        lines.append(f"| {view} | {' | '.join(f'{score:.4f}' for score in scores)} |")
    return "\n".join(lines)


def pets(folder):
    """The run of the pets recipe: its results, its table, histories, and one curve through all stages."""
    target = RESULTS / "pets"
    target.mkdir(parents=True, exist_ok=True)
    results = json.loads((folder / "results.json").read_text())
    shutil.copy(folder / "results.json", target / "results.json")
    joined = {}
    for stage in results["stages"]:
        record = folder / stage["name"] / "history.csv"
        shutil.copy(record, target / f"{stage['name']}.csv")
        for column, values in read_history(record).items():
            joined.setdefault(column, []).extend(values)
    names = ("loss", "iou", "iou_per_image", "accuracy")
    sizes = ", ".join(f"{stage['epochs']} epochs at {stage['size']}" for stage in results["stages"])
    save(plotting.learning_curves(joined, names, title=sizes), target / "curves.png")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        write_text(page, insert(text, PETS_START, PETS_END, pets_table(results)))


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=pathlib.Path, help="--output of study.py")
    parser.add_argument("--pets", type=pathlib.Path, help="--output of train_pets.py")
    parser.add_argument("--authors", type=pathlib.Path, help="directory of the authors' logs")
    parser.add_argument("--data", default="tfds", help="as in study.py")
    parser.add_argument("--partly", nargs="+", default=[], choices=STUDIES, metavar="STUDY",
                        help="draw the predictions of these studies also if models that were kept results of are missing")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.studies:
        if not arguments.authors:
            parser.error("--studies needs --authors, to draw their curves behind ours")
        begun = [name for name in STUDIES if (arguments.studies / name).exists()]
        if not begun:
            parser.error(f"there is no study in {arguments.studies}: give the --output of study.py")
        for name in begun:
            collect(name, arguments.studies, arguments.authors)
            if STUDIES[name].published:
                partly = name in arguments.partly
                prediction_figure(name, arguments.studies, arguments.data, partly)
            else:
                dots(name, STUDIES[name].question)
        for page in PAGES:
            text = page.read_text(encoding="utf-8")
            write_text(page, insert(text, START, END, summary()))
        write_text(RESULTS / "ranks.md", ranks())
    if arguments.pets:
        pets(arguments.pets)


if __name__ == "__main__":
    main()
