"""Encoders: what is known of each backbone (`spec`), by which name (`registry`), and how it is built (`build`, `weights`)."""

from tl_unet.encoders import applications, plain  # noqa: F401  (they fill the registry)
from tl_unet.encoders.preprocessing import Preprocessing
from tl_unet.encoders.registry import get_encoder_spec, list_encoders, register_encoder
from tl_unet.encoders.spec import EncoderSpec, Tap

__all__ = [
    "EncoderSpec",
    "Preprocessing",
    "Tap",
    "get_encoder_spec",
    "list_encoders",
    "register_encoder",
]
