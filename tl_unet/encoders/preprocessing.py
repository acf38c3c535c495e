"""What a backbone's weights expect of the image: colour statistics as data, applied inside the model's graph.

Use `Preprocessing` in an `EncoderSpec` of your own. Everything takes raw RGB values 0..255; `keras.applications`'
own `preprocess_input` functions (and the preprocessing layers that some of its backbones carry inside) are rows here.
"""

import dataclasses
import math

import keras

from tl_unet.argument_checks import check_number
from tl_unet.layers import ReverseChannels

_IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Colour statistics of a backbone: `(image - mean) / std`, then optionally RGB to BGR.

    Images with other than three channels take the statistics in turn: channel `i` gets those of colour `i % 3`, so the
    first three channels of a four-channel image are treated as red, green and blue, and the fourth as red again.

    Args:
        mean: three floats, the mean of red, green and blue on the scale 0..255. Defaults to `(0, 0, 0)`.
        std: three floats, none of them 0, the divisor of each colour. Defaults to `(1, 1, 1)`.
        bgr: bool, whether the backbone's first kernel was trained on blue, green, red. Defaults to `False`.

    Raises:
        ValueError: if `mean` or `std` are not three finite numbers, or one of `std` is 0.

    Example:

    >>> from tl_unet import Preprocessing
    >>> Preprocessing(std=(255, 255, 255)).std
    (255.0, 255.0, 255.0)
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False

    def __post_init__(self):
        for field in ("mean", "std"):
            given = getattr(self, field)
            values = (
                list(given) if hasattr(given, "__iter__") and not isinstance(given, str) else []
            )
            if len(values) != 3:
                raise ValueError(
                    f"`{field}` needs one number for each of red, green and blue; received {given!r}."
                )
            values = [check_number(f"each of `{field}`", value, low=-math.inf) for value in values]
            if field == "std" and 0 in values:
                raise ValueError(
                    f"`std` divides the image, so none of it may be 0; received {given!r}."
                )
            # A tuple, whatever sequence or array was given: specs are compared and looked up.
            object.__setattr__(self, field, tuple(values))


# The names of the first three are those of `keras.applications.imagenet_utils.preprocess_input(mode=...)`.
PREPROCESSING = {
    "caffe": Preprocessing(mean=(123.68, 116.779, 103.939), bgr=True),
    "tf": Preprocessing(mean=(127.5,) * 3, std=(127.5,) * 3),
    "torch": Preprocessing(mean=_IMAGENET_MEAN, std=_IMAGENET_STD),
    # EfficientNetV2 S, M and L scale by 128 (their built-in layer), not by 127.5.
    "tf128": Preprocessing(mean=(128.0,) * 3, std=(128.0,) * 3),
    "rescale": Preprocessing(std=(255.0,) * 3),
    "identity": Preprocessing(),
}


def apply_preprocessing(image, preprocessing):
    """Adds the layers of `preprocessing` (a `Preprocessing`) to the graph of `image`, computed in float32.

    The flip to BGR is for three channels only: for other counts `inflate_kernel` reorders the first kernel instead.
    """
    channels = image.shape[-1]
    mean, std = (
        [stats[i % 3] for i in range(channels)] for stats in (preprocessing.mean, preprocessing.std)
    )
    if any(mean) or any(s != 1 for s in std):
        image = keras.layers.Rescaling(
            scale=[1.0 / s for s in std],
            offset=[-m / s for m, s in zip(mean, std, strict=True)],
            dtype="float32",
            name="preprocessing",
        )(image)
    if preprocessing.bgr and channels == 3:
        image = ReverseChannels(dtype="float32", name="rgb_to_bgr")(image)
    return image
