"""Several trained models as one, whose mask is the mean of theirs.

Models that were trained apart, from other seeds or with other encoders or decoders, err in different places, so the mean of their masks is
often better than each of them (Lakshminarayanan et al. 2017 average networks of different seeds). It costs the sum of their predictions.
"""

import keras

from tl_unet.classes import head_of
from tl_unet.deep_supervision import strip_auxiliary


def ensemble(models, *, name="ensemble"):
    """One model of several: its mask is the mean of their masks.

    It is a plain functional model, so `predict`, `evaluate`, [`predict_augmented`][tl_unet.predict_augmented],
    [`predict_tiled`][tl_unet.predict_tiled], [`fold_batch_norm`][tl_unet.fold_batch_norm], [`export_model`][tl_unet.export_model] and `save`
    take it as any other. Each member keeps its own preprocessing, so encoders can differ. The mean is of what the models give:
    probabilities, or logits if all were built with `activation=None`. Train the members by themselves, before.

    Args:
        models: list or tuple of two or more functional `keras.Model`s from an image `(batch, height, width, channels)` to a mask
            `(batch, height, width, classes)`, with equal channels and classes. They are left as they are; of models with deep
            supervision the mask counts.
        name: str, of the new model. Defaults to `"ensemble"`.

    Returns:
        A functional `keras.Model` from an image to the float32 mask, not compiled. Its layers `"member1"`, `"member2"`, and so on are
        models over the layers of `models`, with which they share the weights.

    Raises:
        TypeError: if `models` is no list or tuple of functional `keras.Model`s.
        ValueError: if there are fewer than two, one is given twice, has not one input and one output of four axes, their images or masks
            differ in shape, or some end in another activation than others, such as logits beside probabilities.

    Example:

    >>> import numpy as np, tl_unet
    >>> models = [tl_unet.build_unet("mobilenetv2", weights=None, freeze=False, decoder=name) for name in ("linknet", "fpn")]
    >>> both = tl_unet.ensemble(models)
    >>> image = np.full((1, 64, 64, 3), 100, "uint8")
    >>> mean = np.mean([model.predict(image, verbose=0) for model in models], axis=0)
    >>> np.allclose(both.predict(image, verbose=0), mean, atol=1e-6)
    True

    Reference:
        - [Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, 2017](https://arxiv.org/abs/1612.01474)
    """
    if not isinstance(models, (list, tuple)):
        raise TypeError(f"`models` must be a list or tuple of models; received {models!r}.")
    for model in models:
        if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
            raise TypeError(
                f"`models` must be functional keras.Models, as build_unet makes them; received {model!r}."
            )
        shapes = [tensor.shape for tensor in (*model.inputs, *model.outputs)]
        if [len(shape) for shape in shapes] != [4, 4] or len(model.inputs) != 1:
            raise ValueError(
                "Each model must have one input, the image, and one output, the mask, both (batch, height, width, channels); "
                f"{model.name!r} has {len(model.inputs)} and {len(model.outputs)}, of shapes {shapes}."
            )
    if len(models) < 2:
        raise ValueError(f"An ensemble needs two models or more; received {len(models)}.")
    if len({id(model) for model in models}) < len(models):
        raise ValueError("A model is given twice: it would only count twice.")
    sides = _common("images", [model.inputs[0].shape for model in models], models)
    _common("masks", [model.outputs[0].shape for model in models], models)
    ends = [getattr(head_of(model), "activation", None) for model in models]
    if len(set(ends) - {None}) > 1:
        found = ", ".join(
            f"{end.__name__} ({model.name})" for end, model in zip(ends, models, strict=True) if end
        )
        raise ValueError(
            f"The models must end in one activation; they have {found}. A mean of logits and probabilities is neither."
        )
    image = keras.Input(sides[1:], name="image")
    # New models over the same layers: they need names of their own inside another model.
    masks = [
        keras.Model(plain.inputs[0], plain.outputs[0], name=f"member{i}")(image)
        for i, plain in enumerate(map(strip_auxiliary, models), 1)
    ]
    mean = keras.layers.Average(dtype="float32", name="mean")(masks)
    return keras.Model(image, mean, name=name)


def _common(what, shapes, models):
    """The one shape that fits them all, with `None` where all have it."""
    message = f"The models' {what} must have one shape; they have " + ", ".join(
        f"{shape} ({model.name})" for shape, model in zip(shapes, models, strict=True)
    )
    sizes = [{size for size in sizes if size is not None} for sizes in zip(*shapes, strict=True)]
    if any(len(found) > 1 for found in sizes):
        raise ValueError(f"{message}.")
    return tuple(found.pop() if found else None for found in sizes)
