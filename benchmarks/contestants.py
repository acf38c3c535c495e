"""Who is compared at which work: data only."""

import dataclasses

ENCODERS = ("vgg16", "resnet50", "densenet121", "mobilenetv2")


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A library in one of the ways to run it.

    Args:
        library: `"tl_unet"`, `"smp"`, `"segmodels_keras"` or `"medicai"`.
        variant: how, such as `"channels_last"`; `""` for the plain way.
    """

    library: str
    variant: str = ""

    @property
    def name(self) -> str:
        """For tables, such as `"smp, channels_last"`."""
        return ", ".join(filter(None, (self.library, self.variant)))

    def environment(self, work: str) -> str | None:
        """The environment that it runs in; `None` is the one that runs the comparison.

        Keras imports what it finds, such as scikit-learn: for tl_unet's start there is an environment without the packages of its extras.
        """
        ours = "plain" if work == "start" else None
        return {"smp": "torch", "segmodels_keras": "keras", "medicai": "keras"}.get(
            self.library, ours
        )


OURS = Contestant("tl_unet")
# The same network in Keras' own layers. In inference one differs.
PLAIN = Contestant("tl_unet", "Keras' layers")
ENLARGED = Contestant("tl_unet", "enlarged first")
FOLDED = Contestant("tl_unet", "folded")
TORCH = tuple(Contestant("smp", variant) for variant in ("", "channels_last", "compile"))
KERAS = (Contestant("segmodels_keras"), Contestant("medicai"))


@dataclasses.dataclass(frozen=True)
class Work:
    """Something to time.

    Args:
        title: what it is, for the table.
        batch: images at a time.
        size: their sides.
        contestants: who does it; the first is the one whose time is divided by the others'.
        per_encoder: whether it is done for each encoder.
        goal: the ratio of tl_unet's fastest way to the fastest of the others with the same network is to be below it.
    """

    title: str
    batch: int
    size: int
    contestants: tuple[Contestant, ...]
    per_encoder: bool = True
    goal: float = 0.9


_EXPORTED = (OURS, ENLARGED, FOLDED, Contestant("smp"))
WORK = {
    "step": Work("training step, everything", 8, 128, (OURS, PLAIN, *TORCH, *KERAS)),
    "frozen": Work(
        "training step, frozen encoder",
        8,
        128,
        (
            OURS,
            PLAIN,
            FOLDED,
            Contestant("tl_unet", "cached"),
            *TORCH,
            *KERAS,
        ),
        goal=0.6,
    ),
    "latency": Work("prediction", 1, 256, (OURS, ENLARGED, FOLDED, *TORCH, *KERAS)),
    "onnxruntime": Work("prediction, ONNX Runtime", 1, 256, _EXPORTED),
    "openvino": Work("prediction, OpenVINO", 1, 256, _EXPORTED),
    "int8": Work("prediction, OpenVINO in 8 bits", 1, 256, (OURS, Contestant("smp"))),
    "start": Work("start: import and build", 1, 256, (OURS, Contestant("smp"), *KERAS), goal=1.0),
    "data": Work(
        "input pipeline: a pass over 64 JPEGs",
        8,
        256,
        (OURS, Contestant("smp")),
        per_encoder=False,
        goal=1.0,
    ),
}
