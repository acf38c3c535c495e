"""Decoders: functions from a list of feature maps to one feature map (`unet`, `nested`, `additive`), and their names (`registry`).

A decoder sees maps only, never an encoder's name: `features[i]` has stride `2**i`, or is `None` where the encoder has no map of that
stride. `blocks` holds what they share, `spec` what is known of each, `bridges` what may stand between encoder and decoder.
"""

from tl_unet.decoders.blocks import NORMALIZATION, UPSAMPLING
from tl_unet.decoders.registry import (
    get_decoder_spec,
    list_decoders,
    register_decoder,
    resolve_decoder,
)
from tl_unet.decoders.spec import DEFAULT_FILTERS, DecoderSpec

__all__ = [
    "DEFAULT_FILTERS",
    "NORMALIZATION",
    "UPSAMPLING",
    "DecoderSpec",
    "get_decoder_spec",
    "list_decoders",
    "register_decoder",
    "resolve_decoder",
]
