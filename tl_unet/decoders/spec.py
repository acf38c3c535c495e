"""What the library knows about a decoder, as data: its function, its own numbers of filters and what it can do.

Write a `DecoderSpec` to make a decoder of your own usable by name (`register_decoder`) or directly (`build_unet(decoder=spec)`).
"""

import dataclasses
from collections.abc import Callable

import keras

from tl_unet.argument_checks import is_whole
from tl_unet.decoders.blocks import UPSAMPLING

DEFAULT_FILTERS = (512, 256, 128, 64, 32)


@dataclasses.dataclass(frozen=True)
class DecoderSpec:
    """A decoder: a function from a list of feature maps to one feature map, and what is to be known of it.

    The function is `builder(features, filters, *, upsampling, normalization, dropout)`. `features[i]` is a tensor of stride `2**i`, or `None`
    where the encoder has none; the last is the bridge. It never learns which encoder it works for. It returns a map as
    large as the image, or a coarser one, whose logits `build_unet` enlarges; or, with `auxiliary=True`, a list of maps, the final one
    first, the others for deep supervision.

    Args:
        name: str, the name under which `build_unet` and `list_decoders` know it.
        builder: callable, the function.
        filters: sequence of ints, the default of `decoder_filters`, of which as many are taken as there are up-samplings; or a
            callable from the list of the features' channels (`None` where there is no map) to such a sequence. Defaults to
            `(512, 256, 128, 64, 32)`.
        filter_names: sequence of str or `None`. A decoder that does not take one number of filters per up-sampling names
            here those that it takes. Defaults to `None`: one per up-sampling, coarsest first.
        upsampling: sequence of those of `"transpose"`, `"nearest"`, `"bilinear"` that it can do, its default first. Defaults to
            all three, in that order.
        auxiliary: bool, whether it returns a list with maps for deep supervision. Defaults to `False`.
        input_skip: bool, whether it uses a map at full resolution, so that `input_skip=True` means something. Defaults to `True`.

    Raises:
        TypeError: if `builder` can't be called.
        ValueError: if an argument is not as described.

    Example:

    >>> import keras, tl_unet
    >>> def coarse(features, filters, *, upsampling, normalization, dropout):
    ...     return keras.layers.Conv2D(filters[0], 1, activation="relu", name="decoder")(features[-1])
    >>> spec = tl_unet.DecoderSpec("coarse", coarse, filters=(16,), filter_names=("width",))
    >>> model = tl_unet.build_unet("mobilenetv2", decoder=spec, weights=None, freeze=False)
    >>> model.output_shape
    (None, None, None, 1)
    """

    name: str
    builder: Callable
    filters: tuple[int, ...] | Callable = DEFAULT_FILTERS
    filter_names: tuple[str, ...] | None = None
    upsampling: tuple[str, ...] = UPSAMPLING
    auxiliary: bool = False
    input_skip: bool = True

    def __post_init__(self):
        if not callable(self.builder):
            raise TypeError(
                "`builder` must be a function (features, filters, *, upsampling, normalization, dropout); "
                f"received {self.builder!r}."
            )
        for name in ("filters", "filter_names", "upsampling"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"`{name}` must be a sequence; received {value!r}.")
            if value is not None and not callable(value):
                object.__setattr__(self, name, tuple(value))
        if not self.upsampling or not set(self.upsampling) <= set(UPSAMPLING):
            raise ValueError(
                f"`upsampling` must be some of {UPSAMPLING}; received {self.upsampling!r}."
            )

    def resolved_upsampling(self, upsampling):
        """The method that `build_unet(upsampling=...)` means.

        Args:
            upsampling: str, or `None` for the decoder's own.

        Returns:
            One of the field `upsampling`.

        Raises:
            ValueError: if the decoder can't do it.
        """
        if upsampling is None:
            return self.upsampling[0]
        if upsampling not in self.upsampling:
            raise ValueError(
                f"`upsampling` must be one of {self.upsampling} with decoder {self.name!r}; received {upsampling!r}."
            )
        return upsampling

    def resolved_filters(self, filters, channels):
        """The numbers that `build_unet(decoder_filters=...)` means.

        Args:
            filters: sequence of ints, or `None` for the decoder's own.
            channels: list, the channels of the features, finest first, `None` where there is no map.

        Returns:
            Tuple of ints.

        Raises:
            ValueError: if there are too few or too many.
        """
        given, count = filters, self.filter_count(len(channels))
        if filters is None:
            filters = self.filters(channels) if callable(self.filters) else self.filters
            if len(filters) < count:
                raise ValueError(
                    f"This encoder needs {count} up-samplings; decoder {self.name!r} has defaults for {len(filters)}: "
                    f"pass `decoder_filters` with {count} ints."
                )
            filters = filters[:count]
        filters = tuple(filters) if hasattr(filters, "__iter__") else ()
        if len(filters) != count or not all(is_whole(f) and f > 0 for f in filters):
            what = (
                f"for this encoder, one per up-sampling, coarsest first (decoder {self.name!r})"
                if self.filter_names is None
                else f"with decoder {self.name!r}: {', '.join(self.filter_names)}"
            )
            raise ValueError(
                f"`decoder_filters` needs {count} positive ints {what}; received {given!r}."
            )
        return tuple(map(int, filters))

    def filter_count(self, levels):
        """How many numbers `decoder_filters` has.

        Args:
            levels: int, the number of resolutions from the image's to the bridge's: one more than there are up-samplings.

        Returns:
            int.
        """
        return levels - 1 if self.filter_names is None else len(self.filter_names)

    def maps(self, features, filters, **options):
        """Runs the decoder and checks what comes back.

        Args:
            features: list of tensors or `None`, the last the bridge.
            filters: tuple of ints.
            **options: `upsampling`, `normalization` and `dropout`.

        Returns:
            List of pairs of a map and its stride: the final map, then those for deep supervision.

        Raises:
            ValueError: if the decoder returns something else than maps whose strides are powers of two.
        """
        found = self.builder(features, filters, **options)
        maps = list(found) if self.auxiliary and isinstance(found, list | tuple) else [found]
        if not maps or not all(
            isinstance(x, keras.KerasTensor) and len(x.shape) == 4 for x in maps
        ):
            raise ValueError(
                f"Decoder {self.name!r} must return a map (batch, height, width, channels)"
                + (", or a list of them" if self.auxiliary else "")
                + f"; it returned {found!r}."
            )
        strides = _strides(maps, features)
        allowed = {2**i for i in range(len(features))}
        if not set(strides) <= allowed:
            raise ValueError(
                f"Decoder {self.name!r} must return maps of the image's size or a power of two smaller, down to the bridge's; their sides "
                f"are the image's divided by {strides}."
            )
        return [(x, int(stride)) for x, stride in zip(maps, strides, strict=True)]


def _strides(maps, features):
    """The image's side divided by that of each map."""
    present = [(x, 2**i) for i, x in enumerate(features) if x is not None]
    # The maps' sizes for an image of known size, as the features' own sides may be None.
    side = present[-1][1] * max(4, 32 // present[-1][1])
    known = [
        keras.KerasTensor(
            (1, *(side // stride if s is None else s for s in x.shape[1:3]), x.shape[-1])
        )
        for x, stride in present
    ]
    tensors = [x for x, _ in present]
    sizes = keras.Model(tensors, maps).compute_output_spec(known)
    full = [known[0].shape[axis] * present[0][1] for axis in (1, 2)]
    strides = [{f / s for f, s in zip(full, size.shape[1:3], strict=True)} for size in sizes]
    return [max(found) if len(found) == 1 else tuple(found) for found in strides]
