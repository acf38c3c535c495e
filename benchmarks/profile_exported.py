"""Measures what the time of OpenVINO files is spent on, by OpenVINO's own counters: tl-unet's and smp's, beside each other.

    python benchmarks/profile_exported.py                         # VGG16 in 8 bits and in float32; minutes
    python benchmarks/profile_exported.py --encoders mobilenetv2 --work int8
    python benchmarks/profile_exported.py --libraries tl_unet     # without the environment of `compare.py` that smp needs

The networks and files are those of `compare.py`, and so is smp's environment, which is made if it is not there. A row of the table is a kind of operation as OpenVINO runs it: its type, and the implementation that it chose, whose name ends with the numbers' type. Counting slows a
prediction down a little, so the milliseconds are a little more than those of `compare.py`.
"""

import argparse
import collections
import sys
import tempfile
from pathlib import Path

import environments
import exported
import numpy as np
from compare import machine
from contestants import ENCODERS, WORK
from report import cell_name

LIBRARIES = {"tl_unet": None, "smp": "torch"}  # and their environments
OPENVINO = [name for name in exported.WORK if name != "onnxruntime"]


def counted(library, python, work, encoder, calls, threads):
    """Milliseconds of a prediction by kind of operation: a dict of `"type (implementation)"`; `python` is what exports."""
    task = {"library": library, "variant": "", "work": work, "encoder": encoder}
    task |= {"batch": WORK[work].batch, "size": WORK[work].size, "threads": threads}
    spent = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        exported.write(task, folder, python)
        compiled = exported.read_openvino(Path(folder), threads, PERF_COUNT=True)
        image = np.load(Path(folder) / "image.npy")
        request = compiled.create_infer_request()
        for number in range(-3, calls):
            request.infer(image)
            if number >= 0:  # the first ones fill caches
                for node in request.profiling_info:
                    seconds = node.real_time.total_seconds()
                    spent[f"{node.node_type} ({node.exec_type})"] += 1000 * seconds / calls
    return dict(spent)


def table(document):
    """The measured rows as Markdown; what takes less than half a per cent is left out."""
    about = document["machine"]
    lines = [
        f"*{about['date']}, {about['platform']}, {about['threads']} threads, OpenVINO {about['versions']['tl_unet']['openvino']}. Made by `benchmarks/profile_exported.py`.*",
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
    parser.add_argument("--work", nargs="+", choices=OPENVINO, default=["int8", "openvino"])
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
    print(text)
    if arguments.json:
        from tl_unet.runs import replacing, write_json

        write_json(arguments.json, document)
        with replacing(arguments.json.with_suffix(".md")) as beside:
            beside.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
