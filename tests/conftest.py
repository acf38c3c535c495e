"""What the tests share: the place of the real data and weights, and small models that are built once."""

import functools
import gc
import os
import pathlib
import socket

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# What commands print is read here: without colours, which some systems force, and without line breaks.
os.environ |= {"TERMINAL_WIDTH": "500", "_TYPER_FORCE_DISABLE_TERMINAL": "1"}
os.environ.pop("FORCE_COLOR", None)
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the processor: threads of one would only wait for those of the others.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import hypothesis
import keras
import numpy as np
import pytest

from tl_unet.decoders import registry as decoder_registry
from tl_unet.encoders import registry, weights

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"

# Building a graph makes the first example of a property slow; the machines of CI are noisy.
# CI draws the same examples each time: what it finds must not depend on luck; other runs keep looking.
hypothesis.settings.register_profile(
    "default", deadline=None, print_blob=True, derandomize="CI" in os.environ
)
hypothesis.settings.load_profile("default")


def shared_path(*parts):
    """A path below ../shared; skips the test where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(('../shared', *parts))}, which is not on this machine")
    return path


@pytest.fixture
def vgg16_weights():
    return shared_path("weights", "vgg16_imagenet_notop.weights.h5")


@pytest.fixture
def mobilenetv2_weights():
    return shared_path("weights", "mobilenetv2_imagenet_notop.weights.h5")


def pytest_collection_finish(session):
    """What has been imported by now stays: collecting garbage need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fresh_keras(request):
    """Every test starts with the default policy and a seed, and leaves no graph behind."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    # Collecting the garbage takes half a second: only where there is much of it.
    keras.utils.clear_session(free_memory="slow" in request.keywords)


@pytest.fixture
def image():
    """A batch of two random images whose sides no stride divides."""
    return np.random.default_rng(0).uniform(0, 255, (2, 45, 70, 3)).astype("float32")


@functools.cache
def _random_weights(builder):
    """In place of the ImageNet weights of a backbone; pages and docstrings ask for the same few again and again."""
    return builder(input_shape=(224, 224, 3), weights=None).get_weights()


@pytest.fixture
def offline(monkeypatch):
    """No network: "imagenet" means random weights, and what else looks for a host fails. The registries are restored afterwards."""

    def no_network(*args, **kwargs):
        raise OSError(f"the tests are offline; something asked for {args[0]!r}")

    def random_weights(builder):
        @functools.wraps(builder)
        def build(*args, weights="imagenet", **kwargs):
            return builder(*args, weights=None if weights == "imagenet" else weights, **kwargs)

        return build

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(weights, "_imagenet_weights", lambda spec: _random_weights(spec.builder))
    # For those who call `keras.applications` themselves; the registry holds the original functions.
    for name, builder in vars(keras.applications).items():
        if name[0].isupper():
            monkeypatch.setattr(keras.applications, name, random_weights(builder))
    for names in (registry, decoder_registry):
        monkeypatch.setattr(names, "_REGISTRY", dict(names._REGISTRY))
