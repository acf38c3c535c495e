"""Draws what `compare.py` and `feature_cache.py` measured.

    python benchmarks/figures.py docs/results/speed    # a folder with compare.json, feature-cache-slim.json and feature-cache.json

Writes `compare.png` (tl_unet's fastest way over the fastest peer) and `feature-cache.png` (an epoch on cached features over one of the whole model) beside them.
"""

import argparse
import json
from pathlib import Path

from contestants import ENCODERS, WORK
from feature_cache import WAYS
from matplotlib.figure import Figure
from report import best_ratios, ratios

from tl_unet.runs import replacing

COLOURS = {"folded": "tab:gray", "float32": "tab:blue", "float16": "tab:cyan"}
LABELS = {"folded": "encoder folded", "float32": "cached", "float16": "cached,\nfloat16"}


def compare_figure(document):
    """A panel for each encoder, a row for each work: the ratio, its quartiles, and the goal."""
    found = best_ratios(document)
    works = [work for work in WORK if any((work, encoder) in found for encoder in ENCODERS)]
    drawing = Figure(figsize=(11, 1.1 + 0.36 * len(works)), layout="constrained", dpi=100)
    panels = drawing.subplots(1, len(ENCODERS), sharex=True, sharey=True)
    for panel, encoder in zip(panels, ENCODERS, strict=True):
        panel.axvline(1, color="0.4", linewidth=1)
        for place, work in enumerate(works):
            goal = WORK[work].goal
            panel.plot([goal, goal], [place - 0.35, place + 0.35], color="tab:green")
            if (work, encoder) in found:
                middle, low, high = found[work, encoder]
                reached = middle < goal
                panel.errorbar(
                    middle,
                    place,
                    xerr=[[middle - low], [high - middle]],
                    fmt="o" if reached else "s",
                    color="tab:blue" if reached else "tab:orange",
                    capsize=3,
                )
        panel.set_title(encoder)
        panel.grid(axis="x", alpha=0.3)
    titles = [WORK[work].title.partition(": import")[0] for work in works]
    panels[0].set_yticks(range(len(works)), titles)
    panels[0].invert_yaxis()
    drawing.supxlabel("tl-unet's time / fastest peer's (bars: quartiles; green: the goal)", size=10)
    return drawing


def cache_figure(documents):
    """A panel for each decoder, a group of bars for each encoder: an epoch over one of the whole model.

    Args:
        documents: list of dicts, each what `feature_cache.py` wrote.
    """
    drawing = Figure(figsize=(11, 3.2), layout="constrained", dpi=100)
    panels = drawing.subplots(1, len(documents), sharey=True, squeeze=False)[0]
    for panel, document in zip(panels, documents, strict=True):
        rows = document["rows"]
        for number, way in enumerate(WAYS[1:]):
            seconds = [row["seconds"] for row in rows.values()]
            values = [ratios(each[way], each["whole"])[0] for each in seconds]
            places = [place + 0.27 * (number - 1) for place in range(len(rows))]
            panel.bar(places, values, 0.25, color=COLOURS[way], label=LABELS[way])
        panel.axhline(1, color="0.4", linewidth=1)
        panel.set_xticks(range(len(rows)), rows, rotation=15)
        filters = document["setting"]["filters"]
        panel.set_title(f"decoder {', '.join(map(str, filters))}" if filters else "default decoder")
    panels[0].set_ylabel("an epoch / whole model's")
    drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    return drawing


def main(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="with the three JSON files")
    folder = parser.parse_args(argv).folder

    def read(name):
        path = folder / f"{name}.json"
        if not path.is_file():
            parser.error(f"{path} is not there: measure first")
        return json.loads(path.read_text(encoding="utf-8"))

    drawings = {
        "compare": compare_figure(read("compare")),
        "feature-cache": cache_figure([read("feature-cache-slim"), read("feature-cache")]),
    }
    for name, drawing in drawings.items():
        with replacing(folder / f"{name}.png") as beside:
            drawing.savefig(beside, format="png")
        print(f"{folder / name}.png: written")


if __name__ == "__main__":
    main()
