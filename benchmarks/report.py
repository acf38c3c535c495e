"""From the measured seconds to the table of `compare.py`."""

import json
import os
import statistics
from pathlib import Path

from contestants import OURS, WORK

# Whose versions the results depend on, as PyPI spells them.
PACKAGES = (
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "numpy",
    "onnxruntime",
    "openvino",
    "torch",
    "torchvision",
    "segmentation-models-pytorch",
    "segmodels-keras",
    "medicai",
)


def cell_name(work, encoder):
    """The name of a cell, such as `"step vgg16"`."""
    return f"{work} {encoder}" if encoder else work


def ratios(ours, theirs):
    """Our time over theirs, round by round: median and quartiles.

    Args:
        ours: list of seconds.
        theirs: list of as many seconds, of the same rounds.

    Returns:
        Three floats: median, lower and upper quartile.
    """
    values = [a / b for a, b in zip(ours, theirs, strict=False)]
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def rows(cell):
    """The rows of a cell's table, each a list of strings."""
    contestants = cell["contestants"]
    ours = contestants.get(OURS.name, {}).get("seconds")
    for name, entry in contestants.items():
        if not entry.get("seconds"):
            yield [name, "failed", "", "", "", ""]
            continue
        median = statistics.median(entry["seconds"])
        ratio = ""
        if ours and name != OURS.name:
            ratio = "{:.2f} ({:.2f} to {:.2f})".format(*ratios(ours, entry["seconds"]))
        memory = f"{entry['memory'] / 1e9:.2f}" if entry.get("memory") else ""
        share = ""
        if entry.get("gflops") and cell.get("peak_gflops"):
            share = f"{entry['gflops'] / median / cell['peak_gflops']:.0%}"
        parameters = f"{entry['parameters'] / 1e6:.2f}" if entry.get("parameters") else ""
        yield [name, f"{1000 * median:.1f}", ratio, memory, share, parameters]


def text(document):
    """The whole table as Markdown, ready to be included in a page."""
    about = document["machine"]
    versions = {k: v for part in about["versions"].values() for k, v in part.items()}
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    lines = [
        f"*{about['date']}, {about['platform']}, {about['threads']} threads, float32, {about['rounds']} rounds in turn. {listed}. "
        "Made by `benchmarks/compare.py`.*",
        "",
    ]
    if about["quick"]:
        lines += ["**A quick try on small pictures: no result.**", ""]
    for cell in document["cells"].values():
        row, settings = WORK[cell["work"]], cell["settings"]
        encoder = f", {settings['encoder']}" if settings["encoder"] else ""
        peak = f" (peak: {cell['peak_gflops']:.0f} GFLOP/s)" if cell.get("peak_gflops") else ""
        lines += [
            f"**{row.title}{encoder}**: {settings['batch']} x {settings['size']}x{settings['size']}{peak}",
            "",
            "| | ms | tl_unet's time / this one (quartiles) | memory (GB) | share of the peak | parameters (M) |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            *("| " + " | ".join(values) + " |" for values in rows(cell)),
            "",
        ]
        failed = {n: e["error"] for n, e in cell["contestants"].items() if e.get("error")}
        lines += [f"- {other}: {error}" for other, error in failed.items()]
        lines += [""] if failed else []
    return "\n".join(lines)


def write(document, path: Path):
    """Writes the JSON file and the table beside it, each in one step."""
    for target, content in (
        (path, json.dumps(document, indent=1) + "\n"),
        (path.with_suffix(".md"), text(document)),
    ):
        beside = target.with_name(f"tmp-{os.getpid()}-{target.name}")
        beside.write_text(content, encoding="utf-8")
        beside.replace(target)
