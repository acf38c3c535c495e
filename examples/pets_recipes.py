"""The recipes of `train_pets.py`: data only."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Stage:
    """One `fit`: what it trains on, for how long, and how fast it learns (the rate falls along a cosine; `encoder_share` of it is the encoder's).

    `seed` is added to that of the run, so that stages of one size see the pictures in different orders and changed differently.
    """

    name: str
    size: int
    epochs: int
    learning_rate: float
    frozen: bool
    batch_size: int = 16
    encoder_share: float = 1.0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A model and the stages of its training.

    Args:
        encoder: its name; VGG16 is deepened, see `build_model`.
        filters: of the decoder, which is slim, since it is what costs time on a processor.
        dtype_policy: in which precision it computes.
        stages: one `fit` each.
        averaged: names of stages of the last one's size. The mean of their best weights is the model, if the validation pictures
            prefer it to each of them (Izmailov et al. 2018).
    """

    encoder: str
    filters: tuple[int, ...]
    dtype_policy: str
    stages: tuple[Stage, ...]
    averaged: tuple[str, ...] = ()


# Much of the learning happens on small pictures, where an epoch is cheap; the last stages adapt to the full size.
RECIPES = {
    "mobilenetv2": Recipe(
        "mobilenetv2",
        (128, 64, 48, 24, 16),
        "float32",
        (
            Stage("decoder", size=128, epochs=2, learning_rate=1e-3, frozen=True),
            Stage("small", size=160, epochs=8, learning_rate=3e-4, frozen=False),
            Stage("full", size=256, epochs=13, learning_rate=2e-4, frozen=False),
        ),
    ),
    "averaged": Recipe(
        "mobilenetv2",
        (128, 64, 48, 24, 16),
        "float32",
        (
            Stage("decoder", size=128, epochs=2, learning_rate=1e-3, frozen=True, batch_size=8),
            Stage("small", size=160, epochs=8, learning_rate=3e-4, frozen=False, batch_size=8),
            Stage("full", size=256, epochs=10, learning_rate=2e-4, frozen=False),
            Stage("second", size=256, epochs=3, learning_rate=1.5e-4, frozen=False, seed=1),
            Stage("third", size=256, epochs=3, learning_rate=1.5e-4, frozen=False, seed=2),
        ),
        averaged=("full", "second", "third"),
    ),
    "vgg16": Recipe(
        "vgg16",
        (256, 128, 64, 32, 16),
        "mixed_bfloat16",  # faster or slower by the processor: benchmarks/precision.py tells
        (
            Stage("decoder", size=128, epochs=2, learning_rate=1e-3, frozen=True),
            Stage("small", size=160, epochs=4, learning_rate=3e-5, frozen=False, batch_size=8),
            Stage("full", 256, 2, 3e-4, frozen=False, batch_size=8, encoder_share=0.1),
        ),
    ),
    "fast": Recipe(
        "mobilenetv2",
        (128, 64, 48, 24, 16),
        "float32",
        (
            Stage("decoder", size=96, epochs=2, learning_rate=1e-3, frozen=True),
            Stage("small", size=128, epochs=5, learning_rate=3e-4, frozen=False),
        ),
    ),
}
