"""Measures what the time of exported files is spent on, by their runtimes' own counters: tl-unet's and smp's, beside each other.

    python benchmarks/profile_exported.py                         # VGG16 in all runtimes; minutes
    python benchmarks/profile_exported.py --encoders mobilenetv2 --work int8
    python benchmarks/profile_exported.py --libraries tl_unet     # without the environment of `compare.py` that smp needs

The networks and files are those of `compare.py`, and so is smp's environment, which is made if it is not there. A row of the table is a kind of operation as the runtime runs it: its type, and in OpenVINO the implementation that it chose, whose name ends with the numbers' type.
Counting slows a prediction down a little, so the milliseconds are a little more than those of `compare.py`.
"""

import argparse
import collections
import json
import sys
import tempfile
from pathlib import Path

import environments
import exported
import numpy as np
from compare import machine
from contestants import ENCODERS, WORK
from report import cell_name, publish

LIBRARIES = {"tl_unet": None, "smp": "torch"}  # and their environments
RUNTIMES = ("onnxruntime", "openvino")
WARM = 3  # calls that are not counted: they fill caches


def counted(library, python, work, encoder, calls, threads):
    """Milliseconds of a prediction by kind of operation: a dict by what the runtime calls it; `python` is what exports."""
    task = {"library": library, "variant": "", "work": work, "encoder": encoder}
    task |= {"batch": WORK[work].batch, "size": WORK[work].size, "threads": threads}
    count = count_onnxruntime if work == "onnxruntime" else count_openvino
    with tempfile.TemporaryDirectory() as folder:
        exported.write(task, folder, python)
        image = np.load(Path(folder, "image.npy"))
        spent = collections.Counter()
        for name, seconds in count(Path(folder), image, calls, threads):
            spent[name] += 1000 * seconds / calls
    return dict(spent)


def count_openvino(folder, image, calls, threads):
    """Pairs of a kind of operation and the seconds that one took, of all counted calls."""
    compiled = exported.read_openvino(folder, threads, PERF_COUNT=True)
    request = compiled.create_infer_request()
    for number in range(-WARM, calls):
        request.infer(image)
        if number >= 0:
            for node in request.profiling_info:
                yield f"{node.node_type} ({node.exec_type})", node.real_time.total_seconds()


def count_onnxruntime(folder, image, calls, threads):
    """The same of ONNX Runtime, which writes a file of what happened, in microseconds."""
    profile = {"enable_profiling": True, "profile_file_prefix": str(folder / "profile")}
    session = exported.read_onnxruntime(folder, threads, **profile)
    feed = {session.get_inputs()[0].name: image}
    for _ in range(WARM + calls):
        session.run(None, feed)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event for event in events if event["name"].endswith("_kernel_time")]
    for event in kernels[WARM * len(kernels) // (WARM + calls) :]:
        yield event["args"]["op_name"], event["dur"] / 1e6


def table(document):
    """The measured rows as Markdown; what takes less than half a per cent is left out."""
    about = document["machine"]
    ours = about["versions"]["tl_unet"]
    runtimes = ", ".join(f"{name} {ours[name]}" for name in RUNTIMES if name in ours)
    lines = [
        f"*{about['date']}, {about['platform']}, {about['threads']} threads, {runtimes}. Made by `benchmarks/profile_exported.py`.*",
        "",
        "| | | operation | ms | share |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    for row in document["rows"]:
        total = sum(row["milliseconds"].values())
        title = f"{cell_name(row['work'], row['encoder'])} | {row['library']}"
        lines.append(f"| {title} | all | {total:.2f} | |")
        for name, value in collections.Counter(row["milliseconds"]).most_common():
            if value / total >= 0.005:
                lines.append(f"| {title} | {name} | {value:.2f} | {value / total:.1%} |")
    return "\n".join([*lines, ""])


def main(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", nargs="+", choices=exported.WORK, default=list(exported.WORK))
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=["vgg16"])
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--environments", type=Path, default=environments.default_folder(), metavar="DIRECTORY",
                        help="of the peers' environments, as for compare.py; default: %(default)s")  # fmt: skip
    parser.add_argument("--calls", type=int, default=20, help="counted; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file of what is measured, beside which the table (.md) is written; default: only printed")  # fmt: skip
    arguments = parser.parse_args(argv)
    if arguments.calls < 1 or arguments.threads < 1:
        parser.error("--calls and --threads must be positive")
    pythons = {
        name: environments.python_of(LIBRARIES[name], arguments.environments)
        if LIBRARIES[name]
        else sys.executable
        for name in arguments.libraries
    }
    found = {None: sys.executable} | {LIBRARIES[name]: path for name, path in pythons.items()}
    document = {"machine": machine(arguments.threads, found), "rows": []}
    for work in arguments.work:
        for encoder in arguments.encoders:
            for library, python in pythons.items():
                given = library, python, work, encoder, arguments.calls, arguments.threads
                row = {"work": work, "encoder": encoder, "library": library}
                document["rows"].append({**row, "milliseconds": counted(*given)})
    text = table(document)
    publish(document, text, arguments.json)


if __name__ == "__main__":
    main()
