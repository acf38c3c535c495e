"""What the library knows about a backbone, as data: where its feature maps are and what it wants to be fed.

Write an `EncoderSpec` to make a backbone of your own usable by name (`register_encoder`) or directly
(`build_unet(encoder=spec)`). Nothing is built or loaded here.
"""

import dataclasses
from collections.abc import Callable

from tl_unet.encoders.preprocessing import PREPROCESSING, Preprocessing

_VIA = ("output", "input", "model_output")


@dataclasses.dataclass(frozen=True)
class Tap:
    """Where a feature map leaves a backbone.

    Args:
        stride: int, a power of two: the image's side divided by the map's.
        layer: str, name of a layer of the backbone; with `nth` the name of a layer *class*. Not used with
            `via="model_output"`. Defaults to `None`.
        via: `"output"` (of the layer), `"input"` (the tensor that enters the layer: for maps whose own layer has an automatic
            name) or `"model_output"` (of the whole backbone). Defaults to `"output"`.
        nth: int or `None`. If given, the layer is the n-th (from 0) of class `layer` in the backbone, for backbones whose layer
            names change from build to build. Defaults to `None`.
        padding: pair of ints, rows and columns of zeros to add `(before, after)` the map: the stem of some backbones has
            unpadded convolutions, which leave the map a few pixels short of `side / stride`. Defaults to `(0, 0)`.

    Raises:
        ValueError: if an argument is not as described.

    Example:

    >>> from tl_unet import Tap
    >>> Tap(stride=2, layer="conv1_relu").via
    'output'
    """

    stride: int
    layer: str | None = None
    via: str = "output"
    nth: int | None = None
    padding: tuple[int, int] = (0, 0)

    def __post_init__(self):
        if self.stride < 1 or self.stride & (self.stride - 1):
            raise ValueError(
                f"`stride` must be a power of two (1, 2, 4, ...); received {self.stride}."
            )
        if self.via not in _VIA:
            raise ValueError(f"`via` must be one of {_VIA}; received {self.via!r}.")
        if (self.via == "model_output") != (self.layer is None):
            raise ValueError(
                f"A tap via {self.via!r} "
                + ("takes no `layer`." if self.layer else "needs the name of a `layer`.")
            )


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """A backbone and its skip connections, as data.

    Args:
        name: str, the name under which `build_unet` and `list_encoders` know it.
        builder: callable `builder(input_shape=(None, None, channels), weights=None) -> keras.Model`, which returns a functional
            model. With `imagenet=True` it must also take `weights="imagenet"` and an `input_shape` with known sides.
        taps: sequence of `Tap`, finest first; the last is the bridge, the coarsest map. Strides must grow.
        preprocessing: `Preprocessing`, or the name of one: `"caffe"`, `"tf"`, `"torch"`, `"tf128"`, `"rescale"`, `"identity"`.
            What the pre-trained weights expect. Defaults to `"rescale"` (values 0..1).
        entry: str or `None`, name of the layer where the network proper begins; what comes before it in the backbone
            (built-in preprocessing) is left out, since `preprocessing` states it. Defaults to `None` (the input).
        min_size: int, the smallest side that the backbone can process; smaller images are padded. Defaults to 32.
        imagenet: bool, whether `weights="imagenet"` exists. Such a backbone sees a one-channel image as three equal channels.
            Defaults to `False`.
        family: str, the group in which tables show it. Defaults to `"custom"`.

    Raises:
        ValueError: if the taps' strides do not grow, there are fewer than two, or the preprocessing is unknown.

    Example:

    >>> import keras, tl_unet
    >>> spec = tl_unet.EncoderSpec(
    ...     name="tiny_mobilenet",
    ...     builder=lambda **kw: keras.applications.MobileNet(alpha=0.25, include_top=False, **kw),
    ...     taps=[tl_unet.Tap(2, "conv_pw_1_relu"), tl_unet.Tap(4, "conv_pw_3_relu")],
    ...     preprocessing="tf",
    ... )
    >>> spec.stride
    4
    """

    name: str
    builder: Callable
    taps: tuple[Tap, ...]
    preprocessing: str | Preprocessing = "rescale"
    entry: str | None = None
    min_size: int = 32
    imagenet: bool = False
    family: str = "custom"

    def __post_init__(self):
        object.__setattr__(self, "taps", tuple(self.taps))
        strides = [tap.stride for tap in self.taps]
        if len(strides) < 2 or strides != sorted(set(strides)):
            raise ValueError(
                f"Encoder {self.name!r} needs at least two taps, finest first, no stride twice; "
                f"received the strides {strides}."
            )
        known = isinstance(self.preprocessing, Preprocessing) or self.preprocessing in PREPROCESSING
        if not known:
            raise ValueError(
                f"`preprocessing` must be a `Preprocessing` or one of {sorted(PREPROCESSING)}; "
                f"received {self.preprocessing!r}."
            )

    @property
    def stride(self):
        """int, the coarsest stride: what the sides of an image are padded to a multiple of."""
        return self.taps[-1].stride

    @property
    def statistics(self):
        """`Preprocessing`, the spec's preprocessing with a name resolved."""
        if isinstance(self.preprocessing, Preprocessing):
            return self.preprocessing
        return PREPROCESSING[self.preprocessing]
