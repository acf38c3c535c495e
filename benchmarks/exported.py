"""Exporting in a process of its own, and running the file in its runtime with a given number of threads, the same way on each side."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

WORK = ("onnxruntime", "openvino", "int8")


def prepare(task, worker):
    """A function that predicts an image, and facts about the model.

    Exporting can take many times the memory of running. It is done in a process that ends, so this one has what running takes.

    Args:
        task: dict, what `worker` is told, with one of `WORK`.
        worker: path of the script that exports into `task["folder"]`.

    Returns:
        The function, and a dict.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, worker, json.dumps(task | {"folder": folder})],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        facts = json.loads(done.stdout or "{}")
        if not facts.pop("ready", False):
            raise RuntimeError(facts.get("error", f"export ended with status {done.returncode}"))
        return runner(Path(folder), task["threads"]), facts


def runner(folder, threads):
    """A function that predicts an image.

    Args:
        folder: path of a directory with `image.npy` and a `.xml` or `.onnx` file. The runtime has read them when this returns.
        threads: int.

    Returns:
        The function, without arguments, returning the mask.
    """
    image = np.load(folder / "image.npy")
    if not any(folder.glob("*.xml")):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            str(next(folder.glob("*.onnx"))), options, providers=["CPUExecutionProvider"]
        )
        feed = {session.get_inputs()[0].name: image}
        return lambda: session.run(None, feed)[0]
    import openvino

    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # the file is deleted
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    settings |= {"INFERENCE_PRECISION_HINT": "f32"}  # newer processors get bfloat16 else
    compiled = core.compile_model(str(next(folder.glob("*.xml"))), "CPU", settings)
    return lambda: compiled(image)[0]
