"""Names of encoders to their specs."""

from tl_unet import names
from tl_unet.encoders.spec import EncoderSpec

_REGISTRY: dict[str, EncoderSpec] = {}


def register_encoder(spec, overwrite=False):
    """Makes an encoder available by name to `build_unet`, `list_encoders` and `get_encoder_spec`.

    Args:
        spec: `EncoderSpec`.
        overwrite: bool, whether a registered encoder of the same name may be replaced. Defaults to `False`.

    Returns:
        The spec.

    Raises:
        TypeError: if `spec` is no `EncoderSpec`.
        ValueError: if the name is taken and `overwrite` is false.

    Example:

    >>> import dataclasses, tl_unet
    >>> spec = dataclasses.replace(tl_unet.get_encoder_spec("vgg16"), name="vgg16_first_stages")
    >>> spec = dataclasses.replace(spec, taps=spec.taps[:4])
    >>> tl_unet.register_encoder(spec, overwrite=True).name
    'vgg16_first_stages'
    """
    if not isinstance(spec, EncoderSpec):
        raise TypeError(f"`spec` must be a tl_unet.EncoderSpec; received {spec!r}.")
    names.add(_REGISTRY, spec, "encoder", overwrite)
    return spec


def get_encoder_spec(name):
    """The `EncoderSpec` registered under a name.

    Args:
        name: str, such as `"resnet50"`; upper and lower case are the same.

    Returns:
        `EncoderSpec`.

    Raises:
        ValueError: if there is no such encoder; the message names the nearest ones.

    Example:

    >>> import tl_unet
    >>> [tap.layer for tap in tl_unet.get_encoder_spec("vgg16").taps][:2]
    ['block1_conv2', 'block2_conv2']
    """
    return names.find(_REGISTRY, name, "encoder")


def list_encoders(pattern=None):
    """Names of the registered encoders.

    Args:
        pattern: str or `None`, a shell-style pattern such as `"resnet*"`. Defaults to `None` (all).

    Returns:
        Sorted list of str.

    Example:

    >>> import tl_unet
    >>> tl_unet.list_encoders("vgg*")[:2]
    ['vgg16', 'vgg19']
    """
    return names.matching(_REGISTRY, pattern)
