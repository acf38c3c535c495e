"""Freezing and unfreezing the encoder of a model that `build_unet` made: the two stages of transfer learning.

First train the decoder on a frozen encoder, then `unfreeze_encoder` and go on with a small learning rate.
"""

import numbers

import keras

from tl_unet.argument_checks import is_whole


def freeze_encoder(model):
    """Freezes the encoder: its weights, BatchNorm statistics and dropout stand still.

    A compiled model is compiled anew with the same loss and metrics and a fresh optimizer of the same class and settings,
    since Keras ignores the change otherwise.

    Args:
        model: `keras.Model` from `build_unet`, compiled or not. Changed in place.

    Returns:
        The model.

    Raises:
        ValueError: if the model has no layer "encoder", or its compile arguments can't be rebuilt.

    Example:

    >>> import tl_unet
    >>> model = tl_unet.build_unet("mobilenetv2", freeze=False, weights=None)
    >>> len(tl_unet.freeze_encoder(model).get_layer("encoder").trainable_weights)
    0
    """
    encoder = encoder_layer(model)
    arguments = _compile_arguments(model, None)
    encoder.trainable = False
    _compile(model, arguments)
    return model


def unfreeze_encoder(
    model, stages=None, batch_norm=False, learning_rate=None, batch_norm_momentum=None
):
    """Unfreezes the encoder, or its coarsest stages, for fine-tuning.

    BatchNorm layers stay as they are (their statistics and their scale and offset), as small batches would spoil what ImageNet
    taught them. A compiled model is compiled anew with the same loss and metrics and a fresh optimizer of the same class and
    settings, since Keras ignores the change otherwise; what is set by a method, as `exclude_from_weight_decay`, must be set again.

    Args:
        model: `keras.Model` from `build_unet`, compiled or not. Changed in place.
        stages: int or `None`, how many of the encoder's coarsest stages to unfreeze; the rest is frozen. A stage is what lies
            between one tap and the next. Any dropout inside the encoder becomes active. Defaults to `None`: all.
        batch_norm: bool, whether BatchNorm in the unfrozen stages trains too. Defaults to `False`.
        learning_rate: float, schedule or `None`, for the new optimizer, such as a tenth of the first stage's. Defaults to
            `None`: as it was.
        batch_norm_momentum: float in [0, 1) or `None`, how much of its running statistics a BatchNorm that trains keeps in each
            step. Backbones come with up to 0.999 (MobileNetV2), which needs thousands of steps to follow new pictures; 0.9 follows
            within some tens. Only with `batch_norm=True`. Defaults to `None`: the backbone's.

    Returns:
        The model.

    Raises:
        ValueError: if the model has no layer "encoder", `stages` is out of range, `learning_rate` is given for a model that is not
            compiled, `batch_norm_momentum` is out of range or given without `batch_norm`, or the compile arguments can't be rebuilt.
        TypeError: if `batch_norm_momentum` is no number, or `learning_rate` neither a number nor a schedule.

    Example:

    >>> import tl_unet
    >>> model = tl_unet.build_unet("vgg16", weights=None, freeze=False)
    >>> encoder = tl_unet.unfreeze_encoder(model, stages=1).get_layer("encoder")
    >>> [layer.name for layer in encoder.layers if layer.trainable and layer.weights]
    ['block5_conv1', 'block5_conv2', 'block5_conv3']
    """
    encoder = encoder_layer(model)
    total = len(encoder.outputs)
    if stages is not None and not (is_whole(stages) and 1 <= stages <= total):
        raise ValueError(
            f"`stages` must be from 1 to {total}, the stages of this encoder, or None for all; received {stages!r}. "
            "To freeze it, use freeze_encoder(model)."
        )
    if batch_norm_momentum is not None:
        _check_momentum(batch_norm_momentum, batch_norm)
    arguments = _compile_arguments(model, learning_rate)
    # Keras ignores a value that a model has already: without the first line stages that were left frozen would stay so.
    encoder.trainable = False
    encoder.trainable = True
    if stages is not None and stages < total:
        # All maps before them, not the last alone: a layer may serve a finer map only.
        for layer in keras.Model(encoder.inputs, encoder.outputs[: total - stages]).layers:
            layer.trainable = False
    for layer in inner_layers(encoder):
        if isinstance(layer, keras.layers.BatchNormalization):
            if not batch_norm:
                layer.trainable = False
            elif layer.trainable and batch_norm_momentum is not None:
                layer.momentum = float(batch_norm_momentum)
    _compile(model, arguments)
    return model


def _check_momentum(momentum, batch_norm):
    if isinstance(momentum, bool) or not isinstance(momentum, numbers.Real):
        raise TypeError(f"`batch_norm_momentum` must be a number or None; received {momentum!r}.")
    if not 0 <= momentum < 1:
        raise ValueError(
            f"`batch_norm_momentum` must be at least 0 and below 1, such as 0.9; received {momentum!r}."
        )
    if not batch_norm:
        raise ValueError(
            "`batch_norm_momentum` has no effect on statistics that stand still: give batch_norm=True as well, or leave it out."
        )


def encoder_layer(model):
    """The nested model "encoder" of a model from `build_unet`; ValueError if there is none."""
    try:
        return model.get_layer("encoder")
    except ValueError as error:
        raise ValueError(
            f"The model {model.name!r} has no layer named 'encoder': pass one that tl_unet.build_unet made."
        ) from error


def inner_layers(layer, seen=None):
    """All layers inside a layer: of nested models (ConvNeXt's down-sampling), and of blocks that are layers (KerasHub's)."""
    seen = set() if seen is None else seen
    for inner in _parts(layer):
        if id(inner) not in seen:
            seen.add(id(inner))
            yield inner
            yield from inner_layers(inner, seen)


def _parts(layer):
    if isinstance(layer, keras.Model):
        return layer.layers
    held = list(vars(layer).values())
    if keras.backend.backend() == "torch":  # where layers are modules, and modules no attributes
        held += layer.children()
    lists = [value for value in held if isinstance(value, (list, tuple))]
    return [v for v in [*held, *(v for part in lists for v in part)] if isinstance(v, keras.Layer)]


def _compile_arguments(model, learning_rate):
    """What `compile` got, with a fresh optimizer; made before anything changes, so that an error leaves the model as it was."""
    if not model.compiled:
        if learning_rate is not None:
            raise ValueError(
                "`learning_rate` has no effect on a model that is not compiled: leave it out and give it to compile()."
            )
        return None
    schedules = keras.optimizers.schedules.LearningRateSchedule
    unfit = isinstance(learning_rate, str | bool) or callable(learning_rate)
    if unfit and not isinstance(learning_rate, schedules):
        raise TypeError(
            f"`learning_rate` must be a number, a keras.optimizers.schedules.LearningRateSchedule or None; received {learning_rate!r}."
        )
    config = model.get_compile_config()
    if learning_rate is not None:
        optimizer = config["optimizer"]["config"]
        # Under mixed_float16 Keras wraps the optimizer to scale the loss.
        optimizer = optimizer.get("inner_optimizer", {}).get("config", optimizer)
        optimizer["learning_rate"] = keras.saving.serialize_keras_object(learning_rate)
    config["loss"] = None  # the object itself is at hand, so it need not be a registered one
    try:
        arguments = keras.saving.deserialize_keras_object(config)
    except Exception as error:
        raise ValueError(
            f"The model's compile arguments can't be rebuilt ({error}). Register your metrics and optimizer with "
            "@keras.saving.register_keras_serializable(), or call this on a model that is not compiled and compile it then."
        ) from error
    # Keras keeps no record of this argument, only what came of it.
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    return {**arguments, "loss": model.loss, "auto_scale_loss": scaled}


def _compile(model, arguments):
    if arguments is not None:
        model.compile(**arguments)
