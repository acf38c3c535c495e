"""The report of a run: its tables beside the paper's figures, and a page that shows everything. It reads `results.json` only."""

from paper.published import ERRATUM, PUBLISHED
from paper.recipes import MODELS

SCORES = ("dice", "iou", "accuracy", "hard_dice", "hard_iou")
FIRST_CURVES = 3  # the paper's figures 3 to 8 are the curves of its six models
NOT_RUN = "not run"
WEIGHTS = {
    "directory": "pre-trained weights from `{weights_dir}`",
    "imagenet": "ImageNet weights, downloaded by Keras",
    "source task": "**not ImageNet weights**: each encoder was first trained in this run, for a few dozen steps, on a synthetic source task "
    "(telling eight textures apart), and those weights were transferred",
}


def curve_figure(name: str) -> str:
    """File of a model's learning curves: figure3.png for the first of the paper's models, and so on."""
    return f"figures/figure{FIRST_CURVES + list(MODELS).index(name)}.png"


def table(header: list[str], rows: list[list]) -> str:
    """A Markdown table; numbers are set to the right."""
    align = ["---" if i == 0 else "---:" for i in range(len(header))]
    return (
        "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [header, align, *rows]) + "\n"
    )


def table1(results: dict) -> str:
    """The paper's table 1 (validation) and its test results, with ours beside them."""
    text = "## Validation (the paper's table 1)\n\n" + _scores(results, "validation", "table1")
    text += "\n## Test (the paper's: from the authors' logs)\n\n" + _scores(results, "test", "test")
    return text + (
        "\nDice and IoU are soft and averaged over batches, as in the paper; accuracy counts pixels at a threshold of 0.5. "
        "Hard Dice and IoU are thresholded at 0.5 and accumulated over the whole part; the paper has no such figures. Each score "
        "is that of the epoch with the lowest validation loss.\n"
    )


def _scores(results, part, published):
    header = ["model"]
    for score in ("Dice", "IoU", "accuracy"):
        header += [f"{score}, paper", f"{score}, ours"]
    header += ["hard Dice, ours", "hard IoU, ours"]
    rows = []
    for name, model in MODELS.items():
        entry = results["models"].get(name, {})
        ours = entry.get(part) or {}
        row = [model.title]
        for paper, score in zip(getattr(PUBLISHED[name], published), SCORES, strict=False):
            row += [_number(paper), _score(entry, ours, score)]
        rows.append(row + [_score(entry, ours, score) for score in SCORES[3:]])
    return table(header, rows)


def _score(entry, scores, key):
    return _number(scores[key]) if scores.get(key) is not None else entry.get("status", NOT_RUN)


def _number(value, digits=4):
    return "–" if value is None else f"{value:.{digits}f}"


def table2(results: dict) -> str:
    """The composition of the three parts, with the paper's where the data are the same."""
    parts = results["data"]
    real = "dogs" in parts["train"]
    header = ["part", "pictures"] + (["dogs", "cats"] if real else []) + ["foreground share"]
    rows = []
    for part, found in parts.items():
        counts = [f"{found[key]:,}" for key in ("pictures", "dogs", "cats") if key in found]
        rows.append([part, *counts, _number(found["foreground"], 3)])
    text = table(header, rows)
    if not real:
        return text + "\nSynthetic pictures (`tl_unet.data.shapes`), not the paper's data.\n"
    from paper.published import PARTS

    published = [[part, *(f"{count:,}" for count in counts)] for part, counts in PARTS.items()]
    return (
        "## This run\n\n"
        + text
        + "\n## The paper\n\n"
        + table(header[:-1], published)
        + f"\n{ERRATUM}\n"
    )


def runs_table(results: dict) -> str:
    """How each model was run."""
    header = [
        "model",
        "encoder",
        "status",
        "best epoch",
        "s/epoch",
        "parameters",
        "trained",
        "exactly 0.5",
    ]
    rows = []
    for name, model in MODELS.items():
        entry = results["models"].get(name, {})
        share = (entry.get("validation") or {}).get("half")
        rows.append(
            [
                model.title,
                model.encoder,
                entry.get("status", NOT_RUN),
                f"{entry['best_epoch']} of {entry['epochs']}" if entry.get("best_epoch") else "–",
                _number(entry.get("seconds_per_epoch"), 1),
                f"{entry['parameters']:,}" if "parameters" in entry else "–",
                f"{entry['trainable_parameters']:,}" if "parameters" in entry else "–",
                "–" if share is None else f"{share:.1%}",
            ]
        )
    return table(header, rows) + (
        "\nSeconds per epoch include validation; the median over the epochs. 'Exactly 0.5' is the share of the validation pixels with "
        "a probability of exactly 0.5: the last layer before the sigmoid gives nothing there.\n"
    )


def _machine(environment):
    environment = {"processor": "processor not recorded"} | environment
    return (
        f"{environment['cpus']} CPU cores ({environment['processor']}), {environment['platform']}; Python {environment['python']}, "
        f"Keras {environment['keras']} ({environment['backend']} {environment['tensorflow']}), tl-unet {environment['tl_unet']}"
    )


def page(results: dict) -> str:
    """`report.md`."""
    asked = results["configuration"]
    data = "synthetic shapes" if asked["data"] == "shapes" else f"Oxford-IIIT Pet ({asked['data']})"
    weights = WEIGHTS[results["weights_source"]].format(**asked)
    accuracies = results.get("source_task") or {}
    if accuracies:
        listed = ", ".join(f"{name} {value:.2f}" for name, value in accuracies.items())
        weights += f" (accuracy on new textures: {listed}; chance is 0.12)"
    machines = map(_machine, [results["environment"], *results.get("resumed_on", [])])
    text = f"""# U-Net transfer learning with various encoders: recipe "{asked["recipe"]}"

```
{results["command"]}
```

- Data: {data}, {asked["size"]} × {asked["size"]} pixels, {results["data"]["train"]["pictures"]:,} training pictures.
- Encoders: {weights}.
- Training: {asked["epochs"]} epochs, batches of {asked["batch_size"]}, loss {asked["loss"]}, optimizer {asked["optimizer"]},
  augmentation {"on" if asked["augment"] else "off"}, seed {asked["seed"]}, precision {asked["mixed_precision"] or "float32"}.
- Recipe: preprocessing {asked["preprocessing"]}, last stage {asked["last_stage"]}, decoder normalization
  {asked["normalization"] or "none"}; learning rates: {_rates(results)}.
- Machine: {"; resumed on: ".join(machines)}.
"""
    if asked["preset"] != "paper":
        text += "\n**This is a scaled-down run**: its figures are not comparable with the paper's, which are shown for orientation.\n"
    if results["status"] != "complete":
        text += "\n**This run is not complete**: it was interrupted, or is still going on.\n"
    reasons = [
        f"- {MODELS[name].title} was {entry['status']}: {entry['reason']}"
        for name, entry in results["models"].items()
        if entry.get("reason")
    ]
    if reasons:
        text += "\n## Not as planned\n\n" + "\n".join(reasons) + "\n"
    done = [name for name, entry in results["models"].items() if "validation" in entry]
    text += "\n# Table 1: scores\n\n" + table1(results) + "\n## Runs\n\n" + runs_table(results)
    text += "\n# Table 2: pictures\n\n" + table2(results)
    text += "\n# Figures\n"
    if done:
        text += _figure(
            "figures/figure1.png",
            "Figure 1: test pictures, the truth, and each model's raw probabilities",
        )
    text += _figure(
        "figures/figure2.png", "Figure 2: the architecture, drawn from the model itself"
    )
    for name in done:
        number = FIRST_CURVES + list(MODELS).index(name)
        caption = f"Figure {number}: {MODELS[name].title}, loss, Dice, IoU and accuracy by epoch"
        text += _figure(curve_figure(name), caption)
    return text


def _figure(path, caption):
    return f"\n![{caption}]({path})\n\n*{caption}.*\n"


def _rates(results):
    rates = [
        f"{MODELS[name].title} {entry['learning_rate']:g}"
        for name, entry in results["models"].items()
        if "learning_rate" in entry
    ]
    return ", ".join(rates) or "none ran"
