"""From the measured seconds to the table of `compare.py`."""

import json
import os
import statistics
from pathlib import Path

from contestants import ENLARGED, OURS, PLAIN, WORK

# Whose versions the results depend on, as PyPI spells them.
PACKAGES = (
    "keras",
    "jax",
    "tensorflow",
    "tensorflow-cpu",
    "nncf",
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
        # What reads pictures may have processes of its own, which are not counted.
        known = entry.get("memory") and cell["work"] != "data"
        memory = f"{entry['memory'] / 1e9:.2f}" if known else ""
        share = ""
        if entry.get("gflops") and cell.get("peak_gflops"):
            share = f"{entry['gflops'] / median / cell['peak_gflops']:.0%}"
        parameters = f"{entry['parameters'] / 1e6:.2f}" if entry.get("parameters") else ""
        yield [name, f"{1000 * median:.1f}", ratio, memory, share, parameters]


def fastest(contestants, ours):
    """Name and seconds of the fastest of tl_unet's ways (`ours`) or of the others with as many parameters; `None` if none was measured."""
    parameters = contestants.get(OURS.name, {}).get("parameters") or 0
    found = {
        name: entry["seconds"]
        for name, entry in contestants.items()
        if entry.get("seconds")
        and name.startswith(OURS.library) == ours
        # Some libraries have decoders of their own: more work, or less.
        and (ours or abs(entry.get("parameters", 0) - parameters) <= parameters / 100)
    }
    return min(found.items(), key=lambda item: statistics.median(item[1]), default=None)


def summary(document):
    """Lines of a table of ratios: tl_unet as built, and its best way, over the fastest of the others with the same network."""
    cells = [cell for cell in document["cells"].values() if cell["settings"]["encoder"]]
    encoders = list(dict.fromkeys(cell["settings"]["encoder"] for cell in cells))
    found, variants = {}, set()
    for cell in cells:
        plain = cell["contestants"].get(OURS.name, {}).get("seconds")
        best, other = (fastest(cell["contestants"], ours) for ours in (True, False))
        if not plain or not other:
            continue
        work, encoder = cell["work"], cell["settings"]["encoder"]
        found[work, "as built", encoder] = f"{ratios(plain, other[1])[0]:.2f} ({other[0]})"
        if any(
            c.library == OURS.library and c not in (OURS, PLAIN, ENLARGED)
            for c in WORK[work].contestants
        ):
            way = f"{best[0].partition(', ')[2] or 'as built'}; {other[0]}"
            found[work, "best way", encoder] = f"{ratios(best[1], other[1])[0]:.2f} ({way})"
            variants.add(work)
    lines = [f"| | {' | '.join(encoders)} |", f"| --- |{' ---: |' * len(encoders)}"]
    for work, row in WORK.items():
        for how in ("as built", "best way")[: 2 if work in variants else 1]:
            values = [found.get((work, how, encoder), "") for encoder in encoders]
            if any(values):
                title = f"{row.title}, {how}" if work in variants else row.title
                lines.append(f"| {title} | {' | '.join(values)} |")
    note = "*tl_unet's time over that of the fastest peer with the same number of parameters (to 1 %), which is named; below 1, tl_unet is faster.*"
    return [*lines, "", note] if found else []


def best_ratios(document):
    """Median and quartiles of tl_unet's fastest way over the fastest of the others with the same network, by work and encoder."""
    found = {}
    for cell in document["cells"].values():
        best, other = (fastest(cell["contestants"], ours) for ours in (True, False))
        if best and other:
            found[cell["work"], cell["settings"]["encoder"]] = ratios(best[1], other[1])
    return found


def misses(document):
    """Lines that name the cells in which tl_unet's fastest way is not below its goal, unrounded."""
    found = []
    for (work, encoder), (ratio, _, _) in best_ratios(document).items():
        if ratio >= (row := WORK[work]).goal:
            title = f"{row.title}, {encoder}" if encoder else row.title
            found.append(f"- {title}: {ratio:.3f} (goal: below {row.goal:g})")
    return ["", "Not below its goal is tl_unet's fastest way in:", "", *found] if found else []


def heading(document):
    """Lines that say where and with what the tables were made."""
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
    return lines


def text(document):
    """Every contestant's times as Markdown, a table for each cell, ready to be included in a page."""
    lines = heading(document)
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
        # The first sentence: lists of what there is instead are long.
        failed = {
            name: entry["error"].partition(". ")[0]
            for name, entry in cell["contestants"].items()
            if entry.get("error")
        }
        lines += [f"- {other}: {error}" for other, error in failed.items()]
        lines += [""] if failed else []
    return "\n".join(lines)


def write(document, path: Path):
    """Writes the JSON file, the tables and, by the name's end `-ratios.md`, that of the ratios beside it, each in one step."""
    first = "\n".join([*heading(document), *summary(document), *misses(document), ""])
    for target, content in (
        (path, json.dumps(document, indent=1) + "\n"),
        (path.with_suffix(".md"), text(document)),
        (path.with_name(f"{path.stem}-ratios.md"), first),
    ):
        beside = target.with_name(f"tmp-{os.getpid()}-{target.name}")
        beside.write_text(content, encoding="utf-8")
        beside.replace(target)


def publish(document, table, path=None):
    """Prints the table of a smaller measurement and, with a path, writes its numbers there and the table beside them (.md), each in one step."""
    print(table)
    if path:
        from tl_unet.runs import replacing, write_json  # `compare.py` works without the library

        write_json(path, document)
        with replacing(path.with_suffix(".md")) as beside:
            beside.write_text(table, encoding="utf-8")
