"""Names of decoders to their specs."""

from tl_unet import names
from tl_unet.decoders.additive import fpn_decoder, linknet_decoder, linknet_filters
from tl_unet.decoders.nested import unet3plus_decoder, unetplusplus_decoder
from tl_unet.decoders.spec import DecoderSpec
from tl_unet.decoders.unet import attention_decoder, residual_decoder, scse_decoder, unet_decoder

_REGISTRY: dict[str, DecoderSpec] = {}


def register_decoder(spec, overwrite=False):
    """Makes a decoder available by name to `build_unet`, `list_decoders` and `get_decoder_spec`.

    Args:
        spec: `DecoderSpec`.
        overwrite: bool, whether a registered decoder of the same name may be replaced. Defaults to `False`.

    Returns:
        The spec.

    Raises:
        TypeError: if `spec` is no `DecoderSpec`.
        ValueError: if the name is taken and `overwrite` is false.

    Example:

    >>> import dataclasses, tl_unet
    >>> slim = dataclasses.replace(tl_unet.get_decoder_spec("unet"), name="slim", filters=(64, 32, 16, 16, 8))
    >>> tl_unet.register_decoder(slim, overwrite=True).name
    'slim'
    """
    if not isinstance(spec, DecoderSpec):
        raise TypeError(f"`spec` must be a tl_unet.DecoderSpec; received {spec!r}.")
    names.add(_REGISTRY, spec, "decoder", overwrite)
    return spec


def get_decoder_spec(name):
    """The `DecoderSpec` registered under a name.

    Args:
        name: str, such as `"unetplusplus"`; upper and lower case are the same.

    Returns:
        `DecoderSpec`.

    Raises:
        ValueError: if there is no such decoder; the message names the nearest ones.

    Example:

    >>> import tl_unet
    >>> tl_unet.get_decoder_spec("fpn").filters
    (256, 128)
    """
    return names.find(_REGISTRY, name, "decoder")


def list_decoders(pattern=None):
    """Names of the registered decoders.

    Args:
        pattern: str or `None`, a shell-style pattern such as `"unet*"`. Defaults to `None` (all).

    Returns:
        Sorted list of str.

    Example:

    >>> import tl_unet
    >>> tl_unet.list_decoders("unet*")
    ['unet', 'unet3plus', 'unetplusplus']
    """
    return names.matching(_REGISTRY, pattern)


def resolve_decoder(decoder):
    """The spec that `build_unet(decoder=...)` means.

    Args:
        decoder: str or `DecoderSpec`.

    Returns:
        `DecoderSpec`.

    Raises:
        TypeError: if it is neither.
        ValueError: if the name is unknown.
    """
    if isinstance(decoder, str):
        return get_decoder_spec(decoder)
    if isinstance(decoder, DecoderSpec):
        return decoder
    raise TypeError(
        f"`decoder` must be a name (see tl_unet.list_decoders()) or a tl_unet.DecoderSpec; received {decoder!r}."
    )


for _spec in (
    DecoderSpec("unet", unet_decoder),
    DecoderSpec("residual", residual_decoder),
    DecoderSpec("attention", attention_decoder),
    DecoderSpec("scse", scse_decoder),
    # The paper's nodes have 256, 128, 64 and 32 channels above a bridge of 512.
    DecoderSpec(
        "unetplusplus", unetplusplus_decoder, filters=(256, 128, 64, 32, 16), auxiliary=True
    ),
    DecoderSpec(
        "unet3plus",
        unet3plus_decoder,
        filters=(64,) * 5,
        # A transposed convolution that enlarges 16 times has 256 weights for each pair of channels.
        upsampling=("bilinear", "nearest"),
        auxiliary=True,
    ),
    DecoderSpec("linknet", linknet_decoder, filters=linknet_filters),
    DecoderSpec(
        "fpn",
        fpn_decoder,
        filters=(256, 128),
        filter_names=("channels of the pyramid", "channels of the branches"),
        upsampling=("bilinear", "nearest"),
        input_skip=False,
    ),
):
    register_decoder(_spec)
