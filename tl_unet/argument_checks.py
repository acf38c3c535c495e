"""Checks of arguments: numbers, choices, and lists that go by classes. Every error names the argument, what it must be and what it is."""

import math
import numbers

import keras
import numpy as np


def check_number(name, value, low=0.0, high=math.inf):
    """Returns a constructor argument as a float, checked.

    Args:
        name: String, the argument's name, for the error.
        value: The value given.
        low: Float, the least value allowed. Defaults to `0.0`.
        high: Float, the largest value allowed. Defaults to `math.inf`.

    Returns:
        `value` as a float.

    Raises:
        ValueError: If the value is not a finite number in the range.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        limits = f"of at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} must be a finite number {limits}, but is {value!r}.")
    return float(value)


def is_whole(value):
    """Whether a value is a whole number: an `int` or one of NumPy's, but no bool.

    Args:
        value: Any value.

    Returns:
        A bool.
    """
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_choice(name, value, choices):
    """Returns a constructor argument that must be one of a few words.

    Args:
        name: String, the argument's name, for the error.
        value: The value given.
        choices: Tuple of the strings allowed.

    Returns:
        `value`, unchanged.

    Raises:
        ValueError: If the value is none of them.
    """
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, choices))}, but is {value!r}."
        )
    return value


def check_ignore_index(value):
    """Returns `ignore_index` as an integer or `None`, checked.

    Args:
        value: The value given.

    Returns:
        An integer or `None`.

    Raises:
        ValueError: If the value is neither.
    """
    if value is None:
        return None
    if not is_whole(value):
        raise ValueError(
            f"ignore_index must be an integer (such as 255) or None, but is {value!r}."
        )
    return int(value)


def check_class_weights(value):
    """Returns `class_weights` as a list of floats or `None`, checked.

    Args:
        value: `None`, or a sequence of at least two non-negative numbers, not all of them 0.

    Returns:
        A list of floats or `None`.

    Raises:
        ValueError: If the value is neither.
    """
    if value is None:
        return None
    if isinstance(value, dict | str) or not hasattr(value, "__len__"):
        raise ValueError(
            f"class_weights must be a sequence of numbers, one for each class, but is {value!r}."
        )
    weights = [
        check_number("each of class_weights", weight) for weight in np.asarray(value).tolist()
    ]
    if len(weights) < 2 or not any(weights):
        raise ValueError(
            "class_weights must hold at least two numbers, one for each class, not all of them 0 (for a "
            f"single output channel: background and foreground), but is {weights}."
        )
    return weights


def check_class_names(value):
    """Returns `class_names` as a list of strings, checked.

    Args:
        value: A sequence of different, non-empty strings.

    Returns:
        A list of strings.

    Raises:
        ValueError: If the value is anything else.
    """
    names = [] if isinstance(value, str | dict) or not hasattr(value, "__iter__") else list(value)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(
            f"class_names must be a sequence of names, one for each class in the order of their numbers, but is {value!r}."
        )
    if len(set(names)) < len(names):
        raise ValueError(f"class_names must all be different, but are {names}.")
    return names


def check_class_count(name, count, classes, one_is_two=True):
    """Checks that a list that goes by classes has as many entries as there are classes.

    Args:
        name: String, the argument's name, for the error.
        count: Integer, the length of the list.
        classes: Integer, the number of output channels (2 for one channel with a background).
        one_is_two: Boolean, whether one output channel counts as two classes, for the error.
            Defaults to `True`.

    Raises:
        ValueError: If the two differ.
    """
    if count != classes:
        note = " (a model with one output channel has two: background and foreground)"
        raise ValueError(
            f"{name} has {count} entries, but there are {classes} classes{note if one_is_two else ''}. "
            "Give one entry for each."
        )


def registered(cls):
    """Registers a class with Keras, so that saved models load without `custom_objects`.

    Args:
        cls: Class to register under the package "tl_unet".

    Returns:
        The class itself.
    """
    return keras.saving.register_keras_serializable(package="tl_unet")(cls)
