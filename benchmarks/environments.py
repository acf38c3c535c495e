"""The peers' own virtual environments, made with plain `pip` and kept for the next run."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = {
    "plain": [str(ROOT)],
    "torch": [
        "torch==2.14.1",
        "torchvision==0.29.1",
        "segmentation-models-pytorch",
        "nncf",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "openvino",
    ],
    "keras": ["keras>=3.10", "medicai", "segmodels-keras", "tensorflow>=2.18"],
}


def default_folder() -> Path:
    """Where the environments are unless said otherwise: the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tl-unet-benchmarks"


def python_of(name: str, folder: Path) -> Path:
    """The interpreter of an environment, made if it is missing or has other requirements.

    Args:
        name: `"torch"`, `"keras"` or `"plain"` (tl-unet without extras).
        folder: directory of the environments.

    Returns:
        The path of its Python.

    Raises:
        RuntimeError: if the packages cannot be installed.
    """
    place = folder / name
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = place / "ready.json"
    wanted = json.dumps({"requirements": REQUIREMENTS[name], "python": sys.version})
    if ready.is_file() and ready.read_text(encoding="utf-8") == wanted:
        return python
    print(f"Making the environment {name} in {place}: some minutes, some gigabytes", flush=True)
    shutil.rmtree(place, ignore_errors=True)
    venv.create(place, with_pip=True)
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]])
    if done.returncode:
        raise RuntimeError(
            f"The packages of the environment {name} could not be installed: {REQUIREMENTS[name]}. See what pip said above."
        )
    ready.write_text(wanted, encoding="utf-8")
    return python
