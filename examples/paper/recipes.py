"""The six models of the paper, and the recipes by which they are built and trained, as tables.

`--recipe paper` is what the authors' code does, `--recipe corrected` the same without its confounds. Change one field at a time with
`--preprocessing`, `--last-stage` and `--normalization` to see what each is worth.
"""

import dataclasses

import keras
import numpy as np

import tl_unet


@dataclasses.dataclass(frozen=True)
class PaperModel:
    """One of the paper's models.

    Args:
        title: its name in the paper.
        encoder: its encoder's name in tl-unet.
        freeze: whether the encoder stands still.
        filters: the paper's decoder filters before the last stage, or `None` where they are tl-unet's default.
        cost: time of an epoch relative to V-Unet's, measured in the demo on two cores; for estimates.
    """

    title: str
    encoder: str
    freeze: bool = True
    filters: tuple[int, ...] | None = None
    cost: float = 1.0


MODELS = {
    "unet": PaperModel("U-Net", "unet", freeze=False, cost=1.6),
    "vunet": PaperModel("V-Unet", "vgg16"),
    "vunet-finetuned": PaperModel("FT V-Unet", "vgg16", freeze=False, cost=1.3),
    "dunet": PaperModel("D-Unet", "densenet121", filters=(512, 256, 128, 64), cost=0.7),
    "runet": PaperModel("R-Unet", "resnet50", filters=(1024, 512, 256, 64), cost=1.0),
    # 196 is a slip of the authors for 192, the width of the skip connection; their parameter count is with it.
    "munet": PaperModel("M-Unet", "mobilenetv2", filters=(576, 196, 144, 96), cost=0.6),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is built and trained.

    Args:
        preprocessing: `"rescale"` (x / 255 for every encoder) or `"encoder"` (what the encoder was trained on).
        last_stage: `"narrow"` (three channels and the input image: the paper's D-, R- and M-Unet) or `"normal"` (32 channels).
            U-Net and V-Unet, which have a full-size map, are the same in both.
        paper_filters: whether the other stages of D-, R- and M-Unet have the paper's widths, or tl-unet's default ones.
        normalization: in the decoder: `None`, `"group"` or `"batch"` (whose running statistics want several hundred steps).
        optimizer: its name.
        learning_rates: for a frozen encoder, and for one that is trained.
        demo_learning_rates: the same for the few hundred steps of a demo, in which 1e-5 would teach nothing.
    """

    preprocessing: str
    last_stage: str
    paper_filters: bool
    normalization: str | None
    optimizer: str
    learning_rates: tuple[float, float]
    demo_learning_rates: tuple[float, float]


RECIPES = {
    "paper": Recipe("rescale", "narrow", True, None, "adam", (1e-5, 1e-5), (1e-4, 1e-4)),
    "corrected": Recipe("encoder", "normal", False, "group", "adam", (1e-3, 1e-4), (1e-3, 1e-4)),
}

NARROW, NORMAL = 3, 32
FULL_SIZE_ENCODERS = ("unet", "vgg16")  # their finest map has the size of the image: no fifth stage
DEFAULT_FILTERS = (512, 256, 128, 64)

LOSSES = {
    "dice": tl_unet.DiceLoss,  # smooth 1 over the whole batch, as in the paper
    "bce": keras.losses.BinaryCrossentropy,
    "dice+bce": lambda: tl_unet.DiceLoss() + keras.losses.BinaryCrossentropy(),
    "tversky": tl_unet.TverskyLoss,
    "lovasz": tl_unet.LovaszLoss,
    "jaccard": tl_unet.JaccardLoss,
    "focal": tl_unet.FocalLoss,
}
OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "nadam": keras.optimizers.Nadam,
    "lion": keras.optimizers.Lion,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": lambda learning_rate: keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True),
}


def build_arguments(name: str, options) -> dict:
    """The arguments of `build_unet` for a model, without its weights.

    Args:
        name: one of `MODELS`.
        options: with the fields `preprocessing`, `last_stage`, `paper_filters` and `normalization` of a `Recipe`, and `normalize_features`.

    Returns:
        A dict, ready for JSON.
    """
    row = MODELS[name]
    arguments = {
        "encoder": row.encoder,
        "freeze": row.freeze,
        "preprocessing": options.preprocessing,
        "normalization": options.normalization,
        "normalize_features": "auto" if options.normalize_features == "auto" else False,
    }
    if row.encoder not in FULL_SIZE_ENCODERS:
        narrow = options.last_stage == "narrow"
        filters = row.filters if options.paper_filters else DEFAULT_FILTERS
        arguments["decoder_filters"] = [*filters, NARROW if narrow else NORMAL]
        arguments["input_skip"] = narrow
    return arguments


def learning_rate(name: str, options) -> float:
    """The learning rate that a model is trained with."""
    if options.learning_rate is not None:
        return options.learning_rate
    recipe = RECIPES[options.recipe]
    rates = recipe.demo_learning_rates if options.preset == "demo" else recipe.learning_rates
    return rates[0] if MODELS[name].freeze else rates[1]


def _exactly_half(mask, probability):
    """1 where a probability is exactly 0.5: where the last layer is dead, the sigmoid sees a zero."""
    return keras.ops.cast(probability == 0.5, "float32")


def metrics() -> list[keras.metrics.Metric]:
    """Dice and IoU as in the paper (soft, averaged over batches) and hard over the data set, accuracy, and the share of 0.5."""
    paper = {"threshold": None, "average": "batch", "smooth": 1.0}
    hard = {"threshold": 0.5, "average": "dataset"}
    return [
        tl_unet.DiceCoefficient(**paper, name="dice"),
        tl_unet.IoU(**paper, name="iou"),
        keras.metrics.BinaryAccuracy(name="accuracy"),
        tl_unet.DiceCoefficient(**hard, name="hard_dice"),
        tl_unet.IoU(**hard, name="hard_iou"),
        keras.metrics.MeanMetricWrapper(_exactly_half, name="half"),
    ]


def compiled_model(name: str, options, weights) -> keras.Model:
    """Build and compile a model.

    Args:
        name: one of `MODELS`.
        options: the run's `Options`.
        weights: as in `build_unet`.

    Returns:
        A compiled `keras.Model` whose optimizer is built.

    Raises:
        FileNotFoundError: if the weights cannot be had.
    """
    model = tl_unet.build_unet(**build_arguments(name, options), weights=weights, name=name)
    optimizer = OPTIMIZERS[options.optimizer](learning_rate=learning_rate(name, options))
    model.compile(optimizer, LOSSES[options.loss](), metrics=metrics())
    mask = np.zeros((1, options.size, options.size, 1), "float32")
    create_training_variables(model, mask, mask)
    return model


def trained_decoder(features, model: keras.Model, options) -> keras.Model:
    """The decoder of a feature cache, compiled as the model is and with the model's own optimizer.

    Args:
        features: a `tl_unet.FeatureCache` of `model`.
        model: as `compiled_model` returns. Its weights and its optimizer's state are those that are trained.
        options: the run's `Options`.

    Returns:
        A compiled `keras.Model`.
    """
    decoder = features.decoder
    decoder.compile(
        model.optimizer,
        LOSSES[options.loss](),
        metrics=metrics(),
        jit_compile=model.jit_compile,
        run_eagerly=model.run_eagerly,
    )
    mask = np.zeros((1, options.size, options.size, 1), "float32")
    create_scores(decoder, mask, mask)
    return decoder


def create_training_variables(model: keras.Model, target, prediction) -> None:
    """Create the variables of a model's optimizer and metrics before the first step.

    TensorFlow traces a step twice if the first tracing creates variables, which costs half a minute with a DenseNet.

    Args:
        model: a compiled `keras.Model`.
        target: array, any example of what the model is to predict.
        prediction: array, any example of what it predicts.
    """
    model.optimizer.build(model.trainable_variables)
    create_scores(model, target, prediction)


def create_scores(model: keras.Model, target, prediction) -> None:
    """Create the variables of a model's metrics, and its loss, for which JAX and PyTorch would take a batch out of the training's order.

    Args:
        model: a compiled `keras.Model`.
        target: as in `create_training_variables`.
        prediction: as in `create_training_variables`.
    """
    model.compute_metrics(None, target, prediction)
    model.compute_loss(y=target, y_pred=prediction)
    model.reset_metrics()
