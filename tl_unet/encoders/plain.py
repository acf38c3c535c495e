"""The contracting path of the standard U-Net (Ronneberger et al. 2015), as the encoder `"unet"`."""

import keras

from tl_unet.encoders.registry import register_encoder
from tl_unet.encoders.spec import EncoderSpec, Tap

FILTERS = (64, 128, 256, 512, 1024)


def contracting_path(input_shape, weights=None):
    """Two 3x3 convolutions with ReLU a stage, 2x2 max pooling between stages; 64 to 1024 channels.

    With "same" padding, where Ronneberger et al. (2015) have none, as in the U-Net of the library's paper.
    """
    if weights is not None:
        raise ValueError("The standard U-Net's path has no pre-trained weights: pass weights=None.")
    x = image = keras.Input(input_shape)
    for stage, filters in enumerate(FILTERS, 1):
        if stage > 1:
            x = keras.layers.MaxPooling2D(2, name=f"stage{stage}_pool")(x)
        for conv in (1, 2):
            x = keras.layers.Conv2D(
                filters,
                3,
                padding="same",
                activation="relu",
                name=f"stage{stage}_conv{conv}",
            )(x)
    return keras.Model(image, x)


register_encoder(
    EncoderSpec(
        name="unet",
        builder=contracting_path,
        taps=[Tap(2**i, f"stage{i + 1}_conv2") for i in range(len(FILTERS))],
        preprocessing="rescale",
        min_size=2 ** (len(FILTERS) - 1),
        family="U-Net",
    )
)
