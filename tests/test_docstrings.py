"""The `>>>` examples of the docstrings, run without a network."""

import doctest
import importlib
import pkgutil

import pytest
import tensorflow as tf

import tl_unet


def examples():
    """Every docstring of the package with examples: modules, functions, classes and their methods."""
    found = pkgutil.walk_packages(tl_unet.__path__, "tl_unet.")
    modules = [tl_unet, *(importlib.import_module(module.name) for module in found)]
    for module in modules:
        for test in doctest.DocTestFinder().find(module):
            if test.examples:
                source = "".join(example.source for example in test.examples)
                marks = [pytest.mark.slow] if "build_unet(" in source else []
                yield pytest.param(test, id=test.name, marks=marks)


@pytest.fixture
def eagerly():
    """Functions are run as they are: tracing graphs of real models would take most of the time."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`")
@pytest.mark.parametrize("test", list(examples()))
def test_examples_of_docstrings_give_what_they_show(test, offline, eagerly, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if all(doctest.SKIP in example.options for example in test.examples):
        pytest.skip("the whole example is marked +SKIP")
    report = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert not report, "".join(report)
