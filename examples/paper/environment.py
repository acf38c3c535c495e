"""What a run depends on besides its options, for its `results.json`."""

import os
import platform
from importlib.metadata import version

import keras

import tl_unet
from tl_unet.machine import processor


def environment() -> dict:
    """Versions and machine, as far as they bear on the results."""
    packages = {name: version(name) for name in ("keras", "numpy", "tensorflow")}
    return {
        "python": platform.python_version(),
        "tl_unet": tl_unet.__version__,
        **packages,
        "backend": keras.backend.backend(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cpus": os.cpu_count(),
        "accelerators": [
            device for device in keras.distribution.list_devices() if "cpu" not in device
        ],
    }
