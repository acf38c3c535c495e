"""An encoder that builds and trains in a moment: five stages with BatchNorm and dropout."""

import dataclasses

import keras

import tl_unet


def tiny_backbone(input_shape=(None, None, 3), weights=None):
    x = image = keras.Input(input_shape)
    for stage in range(1, 6):
        x = keras.layers.Conv2D(
            4 * stage, 3, strides=2, padding="same", use_bias=False, name=f"conv{stage}"
        )(x)
        x = keras.layers.BatchNormalization(name=f"norm{stage}")(x)
        x = keras.layers.Dropout(0.2, name=f"dropout{stage}")(x)
        x = keras.layers.ReLU(name=f"relu{stage}")(x)
    model = keras.Model(image, x, name="tiny_backbone")
    if weights is not None:
        model.load_weights(weights)
    return model


TINY = tl_unet.EncoderSpec(
    name="tiny",
    builder=tiny_backbone,
    taps=[tl_unet.Tap(2**stage, f"relu{stage}") for stage in range(1, 6)],
    preprocessing="tf",
)


def tiny_unet(**options):
    """A cheap U-Net, so that a test is about the option it sets."""
    defaults = {
        "encoder": TINY,
        "decoder_filters": (16, 8, 8, 8, 8),
        "weights": None,
        "freeze": False,
    }
    return tl_unet.build_unet(**{**defaults, **options})


def shallow_unet(**options):
    """One with two stages, so that tracing takes little time: for tests that train."""
    encoder = dataclasses.replace(TINY, taps=TINY.taps[:2])
    return tiny_unet(**{"encoder": encoder, "decoder_filters": (8, 8), **options})
