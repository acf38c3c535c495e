"""Draws two runs of `examples/train_distributed.py` over each other: the picture of docs/guides/distributed.md.

python tools/distributed_picture.py runs/two runs/one --output docs/images/distributed.png
"""

import argparse
import pathlib
import sys

from matplotlib.figure import Figure

from tl_unet.runs import replacing

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))

from paper.training import read_history


def draw(several, one):
    """Loss and IoU by epoch: lines of one process, circles of several."""
    figure = Figure(figsize=(9, 3.2), layout="constrained", dpi=100)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "iou"), strict=True):
        for key, kind, colour in (
            (name, "training", "tab:blue"),
            (f"val_{name}", "validation", "tab:orange"),
        ):
            epochs = range(1, len(one[key]) + 1)
            axes.plot(epochs, one[key], color=colour, label=f"{kind}, one process")
            axes.plot(
                epochs,
                several[key],
                "o",
                color=colour,
                fillstyle="none",
                markersize=10,
                label=f"{kind}, several",
            )
        axes.set(title=name, xlabel="epoch", xticks=epochs)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("several", type=pathlib.Path, help="--output of several processes")
    parser.add_argument("one", type=pathlib.Path, help="--output of one")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    several, one = (
        read_history(folder / "history.csv") for folder in (arguments.several, arguments.one)
    )
    names = ("loss", "val_loss", "iou", "val_iou")
    apart = max(abs(a - b) for name in names for a, b in zip(several[name], one[name], strict=True))
    print(f"Losses and IoU of all epochs differ by {apart:.1e} at most.")
    with replacing(arguments.output) as beside:
        draw(several, one).savefig(beside, format="png")


if __name__ == "__main__":
    main()
