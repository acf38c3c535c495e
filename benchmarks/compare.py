"""Times tl-unet against its peers: the same architecture, the same work, in turns.

    pip install -e ".[test]"                                          # tl-unet's side runs in this environment
    python benchmarks/compare.py                                      # everything: hours, on an idle machine
    python benchmarks/compare.py --work step frozen --encoders vgg16  # some cells
    python benchmarks/compare.py --quick                              # a try: small pictures, few repeats; no result
    python benchmarks/compare.py --list                               # the cells, and which are measured

Beside the tables of all times (.md) stands one of ratios (-ratios.md): tl_unet as built, and its fastest way, over the fastest of the peers whose network has as many parameters,
and which of them miss their goals.

Peers: segmentation_models.pytorch (eager, in channels_last, through torch.compile), segmodels_keras and medicai. Their environments are made with pip where
they are missing; the first takes 5 GB of disk (on Linux PyPI's torch brings CUDA's libraries along; it runs on the processor). For each cell (a work and an encoder) every contestant gets a child process, and these take turns:
one after another runs for some tenths of a second while the rest waits, again and again, so that a machine that slows down slows all. The time is the
median over the rounds; the ratio is that of tl-unet's time to the other's in the same round, also with its quartiles. Each round also
times a product of matrices: the processor's peak, of which a contestant's share is given (operations are counted by TensorFlow's profiler on
tl-unet's graph; a backward pass counts twice the forward one).

tl_unet's other ways: with batch normalisation folded, of the frozen encoder in training and of the whole model in prediction ("folded"); the decoder alone on
features of a cache ("cached"); and in Keras' own layers, without `UpConv2D` ("enlarged first") and in training without the fused `BatchNormalization` ("Keras' layers").

The same on each side: weights are random, decoder filters 256, 128, 64, 32, 16 (vgg16: the first four), batch normalisation, nearest up-sampling, a 1x1 head, Adam, binary cross-entropy,
float32. For this vgg16 is without its map of full size, and densenet121 and mobilenetv2 are tapped where the peer does. (ResNet50 has biases in its convolutions in Keras,
26,560 parameters.) medicai and segmodels_keras have decoders of their own
beyond these settings; the numbers of parameters in the JSON tell.

A measured cell is kept in the JSON file and skipped by the next run; an interrupted run goes on. A cell that lacks a contestant now asked for is measured anew,
all of it; one whose contestant failed stays (`--list` tells), until it is deleted from the file.
"""

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import environments
import report
from contestants import ENCODERS, OURS, WORK
from exported import WORK as EXPORTED

from tl_unet.machine import platform_name

HERE = Path(__file__).resolve().parent
PEAK_FLOPS = 2 * 2048**3
# Not by pip, which not all environments have.
VERSIONS = "import importlib.metadata as m, json; print(json.dumps([(d.name, d.version) for d in m.distributions()]))"


class Child:
    """A `worker.py` in the environment of its contestant."""

    def __init__(self, python, task, log):
        self.task = task
        threads = str(task["threads"])
        self.process = subprocess.Popen(
            [python, HERE / "worker.py", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
                "OMP_NUM_THREADS": threads,
                "MKL_NUM_THREADS": threads,
                "CUDA_VISIBLE_DEVICES": "",
            },
        )

    def answer(self):
        """What the child says next; `{"error": ...}` if it has ended."""
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": f"ended with status {self.process.wait()}"}

    def run(self, calls):
        """Let it make some calls."""
        try:
            print(calls, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            return {"error": f"ended with status {self.process.wait()}"}
        return self.answer()

    def close(self):
        """End it."""
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def pythons(names, folder):
    """The interpreter of each environment that is needed, and why one is not there."""
    found, missing = {None: sys.executable}, {}
    for name in sorted(names - {None}):
        try:
            found[name] = environments.python_of(name, folder)
        except RuntimeError as error:
            missing[name] = str(error)
    return found, missing


def measure(work, encoder, arguments, found, missing):
    """A cell: each contestant's seconds by round, facts, or its error.

    Args:
        work: one of `WORK`.
        encoder: str or `None`.
        arguments: of the command line.
        found: interpreters by environment.
        missing: errors by environment.

    Returns:
        A dict, ready for JSON.
    """
    row = WORK[work]
    size = min(row.size, arguments.size or row.size)
    batch = min(row.batch, arguments.batch or row.batch)
    settings = {"encoder": encoder, "size": size, "batch": batch, "threads": arguments.threads}
    results, children = {}, {}
    with (arguments.json.parent / f"{arguments.json.stem}.log").open("a", encoding="utf-8") as log:

        def start(contestant, what):
            task = {"library": contestant.library, "variant": contestant.variant, "work": what}
            return Child(found[contestant.environment(work)], {**task, **settings}, log)

        chosen = [c for c in row.contestants if c.library in arguments.libraries]
        for contestant in chosen:
            if (environment := contestant.environment(work)) in missing:
                results[contestant.name] = {"error": missing[environment]}
        chosen = [c for c in chosen if c.name not in results]
        if work == "start":
            # Each round begins every process anew, for many seconds.
            for _ in range(min(arguments.rounds, 5)):
                for contestant in chosen:
                    child = start(contestant, work)
                    said = child.answer()
                    child.close()
                    entry = results.setdefault(contestant.name, {"seconds": []})
                    if "error" in said:
                        entry["error"] = said["error"]
                    else:
                        entry["seconds"].append(said["start"])
                        entry["parameters"] = said["parameters"]
            return {"settings": settings, "contestants": results}
        try:
            # Two prepare beside each other, which nobody times; but exporting may take most of the memory.
            ahead = 0 if work in EXPORTED else 1
            for number in range(len(chosen) + ahead):
                if number < len(chosen):
                    children[chosen[number].name] = start(chosen[number], work)
                if number >= ahead:
                    name = chosen[number - ahead].name
                    results[name] = said = children[name].answer()
                    print(f"    {name}: {said.get('error', 'ready')}", flush=True)
            children["peak"] = start(OURS, "peak")
            results["peak"] = children["peak"].answer()
            calls = {}
            for number in range(-1, arguments.rounds):
                for name, child in children.items():
                    entry = results[name]
                    if "error" in entry:
                        continue
                    said = child.run(calls.get(name, 1))
                    if "error" in said:
                        entry["error"] = said["error"]
                    elif number < 0:  # how many calls make a turn
                        calls[name] = max(1, round(arguments.turn / said["seconds"]))
                    else:
                        entry.setdefault("seconds", []).append(said["seconds"])
                        entry["memory"] = said["memory"]
        finally:
            for child in children.values():
                child.close()
    peak = results.pop("peak").get("seconds")
    return {
        "settings": settings,
        "peak_gflops": PEAK_FLOPS / statistics.median(peak) / 1e9 if peak else None,
        "contestants": results,
    }


def check_export(cells, libraries):
    """Ends the program if tl-unet's files can't be exported and run here, as a cell that failed would be kept.

    Args:
        cells: list of pairs of a work and an encoder.
        libraries: list of str.
    """
    needed = ("onnx", "tf2onnx", "onnxruntime", "openvino", "nncf")
    lacking = [name for name in needed if importlib.util.find_spec(name) is None]
    if lacking and OURS.library in libraries and any(work in EXPORTED for work, _ in cells):
        raise SystemExit(
            f'For exported files this environment lacks {", ".join(lacking)}: pip install -e ".[export]", or choose other --work.'
        )


def machine(threads, found):
    """What the results depend on: processor, threads, date, and the versions in the environments of these interpreters."""
    versions = {}
    for name, python in found.items():
        done = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True)
        rows = json.loads(done.stdout)
        packages = {name.lower().replace("_", "-"): version for name, version in rows}
        versions[name or "tl_unet"] = {p: v for p, v in packages.items() if p in report.PACKAGES}
    return {
        "platform": platform_name(),
        "threads": threads,
        "date": datetime.date.today().isoformat(),
        "versions": versions,
    }


def state(cell, work, arguments):
    """What there is of a cell, or of `None`, for the contestants that are asked for: in words, `"not measured"` if one is not there."""
    found = (cell or {}).get("contestants", {})
    asked = [c.name for c in WORK[work].contestants if c.library in arguments.libraries]
    if not cell or not found.keys() >= set(asked):
        return "not measured"
    failed = [name for name in asked if not found[name].get("seconds")]
    return f"measured; failed: {', '.join(failed)}" if failed else "measured"


def parse(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK), metavar="WORK",
                        help=f"of {', '.join(WORK)}; default: all")  # fmt: skip
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS), metavar="ENCODER",
                        help=f"of {', '.join(ENCODERS)}; default: all")  # fmt: skip
    libraries = sorted({c.library for row in WORK.values() for c in row.contestants})
    parser.add_argument("--libraries", nargs="+", choices=libraries, default=libraries, metavar="LIBRARY",
                        help=f"of {', '.join(libraries)}; default: all")  # fmt: skip
    parser.add_argument(
        "--rounds", type=int, help="turns of each contestant; default: 15, at most 5 of starts"
    )
    parser.add_argument("--threads", type=int, default=2, help="of each library; default: 2")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="64x64, batches of 2, 3 short rounds: shows that it works",
    )
    parser.add_argument("--json", type=Path, help="file of what is measured, beside which the tables (.md, -ratios.md) and the log of the "
                        "children are written; default: benchmarks/results/compare.json, with --quick quick.json")  # fmt: skip
    parser.add_argument("--environments", type=Path, default=environments.default_folder(), metavar="DIRECTORY",
                        help="of the peers' environments; default: in the user's cache, %(default)s")  # fmt: skip
    parser.add_argument(
        "--list", action="store_true", help="print the cells and which are measured, and stop"
    )
    arguments = parser.parse_args(argv)
    arguments.size, arguments.batch = (64, 2) if arguments.quick else (None, None)
    arguments.turn = 0.05 if arguments.quick else 0.5  # seconds
    if arguments.rounds is None:
        arguments.rounds = 3 if arguments.quick else 15
    if arguments.rounds < 1 or arguments.threads < 1:
        parser.error("--rounds and --threads must be positive")
    arguments.json = (
        arguments.json or HERE / "results" / ("quick.json" if arguments.quick else "compare.json")
    ).resolve()
    return arguments


def main(argv=None):
    """Measure the cells that are not measured yet."""
    arguments = parse(argv)
    cells = [
        (work, encoder)
        for work in arguments.work
        for encoder in (arguments.encoders if WORK[work].per_encoder else [None])
    ]
    document = {"machine": None, "cells": {}}
    if arguments.json.is_file():
        document = json.loads(arguments.json.read_text(encoding="utf-8"))
        kept = document["machine"]
        # One heading stands above all tables.
        ours = {"quick": arguments.quick, "threads": arguments.threads, "rounds": arguments.rounds}
        ours |= {"platform": platform_name()}
        other = {name: kept[name] for name in ours if kept[name] != ours[name]}
        if other and not arguments.list:
            raise SystemExit(
                f"{arguments.json} holds cells of another setting ({', '.join(f'{k}={v!r}' for k, v in other.items())}). Give the "
                "same options on the same machine, another --json, or delete the file."
            )
    if arguments.list:
        for work, encoder in cells:
            name = report.cell_name(work, encoder)
            print(f"{name}: {state(document['cells'].get(name), work, arguments)}")
        return
    check_export(cells, arguments.libraries)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    needed = {
        contestant.environment(work)
        for work, _ in cells
        for contestant in WORK[work].contestants
        if contestant.library in arguments.libraries
    }
    found, missing = pythons(needed, arguments.environments)
    before = document["machine"] or {}
    kept = before.get("versions", {})
    document["machine"] = about = machine(arguments.threads, found)
    today, about["date"] = about["date"], before.get("date", about["date"])
    about |= {"quick": arguments.quick, "rounds": arguments.rounds}
    # This call may need fewer environments, or run in one with fewer packages.
    seen = {name: kept.get(name, {}) | found for name, found in about["versions"].items()}
    about["versions"] = kept | seen
    for number, (work, encoder) in enumerate(cells, 1):
        name = report.cell_name(work, encoder)
        if state(document["cells"].get(name), work, arguments) != "not measured":
            continue
        print(f"{number}/{len(cells)} {name}", flush=True)
        about["date"] = today
        document["cells"][name] = {
            "work": work,
            "date": about["date"],
            "versions": about["versions"],
            **measure(work, encoder, arguments, found, missing),
        }
        report.write(document, arguments.json)
    report.write(document, arguments.json)
    print(f"{arguments.json.with_suffix('.md')}: written")


if __name__ == "__main__":
    main()
