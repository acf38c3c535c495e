"""The backbones of `keras.applications`: one row each, families by loops.

Each row maps the taps by layer name; where Keras names layers automatically, by the stably named layer behind them. Backbones that
carry their preprocessing inside are built without it (or entered behind it), so that `preprocessing` alone decides.
"""

import functools

import keras
from keras import applications as ka

from tl_unet.encoders.registry import register_encoder
from tl_unet.encoders.spec import EncoderSpec, Tap

OUTPUT = None  # in a row: the output of the whole backbone


def _register(family, builder, layers, preprocessing, *, first=2, via="output", padding=(), **rest):
    """Registers one backbone whose taps are at `layers`, at strides `first`, `2 * first`, ..."""
    options = rest.pop("options", {})
    taps = [
        Tap(
            stride=first * 2**i,
            layer=layer,
            via="model_output" if layer is OUTPUT else via,
            padding=padding[i] if i < len(padding) else (0, 0),
        )
        for i, layer in enumerate(layers)
    ]
    register_encoder(
        EncoderSpec(
            name=builder.__name__.lower(),
            builder=functools.partial(builder, include_top=False, **options),
            taps=taps,
            preprocessing=preprocessing,
            imagenet=True,
            family=family,
            **rest,
        )
    )


# VGG: as in the paper and Cheng and Lam (2021), the bridge is the last convolution; the pooling behind it is dropped.
for _builder, _last in ((ka.VGG16, 3), (ka.VGG19, 4)):
    _layers = ["block1_conv2", "block2_conv2"] + [f"block{i}_conv{_last}" for i in (3, 4, 5)]
    _register("VGG", _builder, _layers, "caffe", first=1)

for _v1, _v2, _third, _fourth in (
    (ka.ResNet50, ka.ResNet50V2, 4, 6),
    (ka.ResNet101, ka.ResNet101V2, 4, 23),
    (ka.ResNet152, ka.ResNet152V2, 8, 36),
):
    _blocks = ("conv2_block3", f"conv3_block{_third}", f"conv4_block{_fourth}")
    _layers = ["conv1_relu", *(f"{block}_out" for block in _blocks), "conv5_block3_out"]
    _register("ResNet", _v1, _layers, "caffe")
    # In V2 the stride sits in the last block of a stack: its normalised input is the stack's full-width map.
    _layers = ["conv1_conv", *(f"{block}_preact_relu" for block in _blocks), "post_relu"]
    _register("ResNetV2", _v2, _layers, "tf")

for _builder in (ka.DenseNet121, ka.DenseNet169, ka.DenseNet201):
    _layers = ["conv1_relu", "pool2_conv", "pool3_conv", "pool4_conv", "relu"]
    _register("DenseNet", _builder, _layers, "torch")

_register("MobileNet", ka.MobileNet, [f"conv_pw_{i}_relu" for i in (1, 3, 5, 11, 13)], "tf")
_layers = [f"block_{i}_expand_relu" for i in (1, 3, 6, 13)]
_register("MobileNetV2", ka.MobileNetV2, [*_layers, "out_relu"], "tf")

# MobileNetV3's activations are named automatically: they are the inputs of the next depthwise padding.
for _builder, _blocks in (
    (ka.MobileNetV3Small, ("", "_1", "_3", "_8")),
    (ka.MobileNetV3Large, ("_1", "_3", "_6", "_12")),
):
    _register(
        "MobileNetV3",
        _builder,
        [*(f"expanded_conv{block}_depthwise_pad" for block in _blocks), OUTPUT],
        "tf",
        via="input",
        options={"include_preprocessing": False},
    )

_SAME_EFFICIENT = ["block4a_expand_activation", "block6a_expand_activation", "top_activation"]
for _i in range(8):
    # Keras divides by the square root of the deviation a second time only for the literal weights="imagenet", so the same
    # weights from a file are mis-scaled (tensorflow issue 49930). Entering behind its layers, there is one preprocessing.
    _layers = ["block2a_expand_activation", "block3a_expand_activation", *_SAME_EFFICIENT]
    _builder = getattr(ka, f"EfficientNetB{_i}")
    _register("EfficientNet", _builder, _layers, "torch", entry="stem_conv_pad")

for _builder, _first, _second, _mode in (
    (ka.EfficientNetV2B0, "block1a_project_activation", "block2b_add", "torch"),
    (ka.EfficientNetV2B1, "block1b_add", "block2c_add", "torch"),
    (ka.EfficientNetV2B2, "block1b_add", "block2c_add", "torch"),
    (ka.EfficientNetV2B3, "block1b_add", "block2c_add", "torch"),
    (ka.EfficientNetV2S, "block1b_add", "block2d_add", "tf128"),
    (ka.EfficientNetV2M, "block1c_add", "block2e_add", "tf128"),
    (ka.EfficientNetV2L, "block1d_add", "block2g_add", "tf128"),
):
    _layers = [_first, _second, *_SAME_EFFICIENT]
    _options = {"include_preprocessing": False}
    _register("EfficientNetV2", _builder, _layers, _mode, options=_options)

# ConvNeXt's stem has stride 4: there is no stride-2 map. A stage's output is an unnamed addition before the next down-sampling.
for _size in ("Tiny", "Small", "Base", "Large", "XLarge"):
    _register(
        "ConvNeXt",
        getattr(ka, f"ConvNeXt{_size}"),
        [*(f"convnext_{_size.lower()}_downsampling_block_{i}" for i in range(3)), OUTPUT],
        "torch",
        first=4,
        via="input",
        options={"include_preprocessing": False},
    )

# The stems of these convolve without padding: their maps are a constant short of side / stride and get zeros around them.
_layers = [f"block{i}_sepconv2_bn" for i in (2, 3, 4, 13)] + ["block14_sepconv2_act"]
_register("Xception", ka.Xception, _layers, "tf", padding=((1, 2), (0, 1)), min_size=71)

# Inception names nearly all its layers automatically: the first two maps enter its two poolings.
for _family, _builder, _layers in (
    ("InceptionV3", ka.InceptionV3, ("mixed2", "mixed7", "mixed10")),
    (
        "InceptionResNetV2",
        ka.InceptionResNetV2,
        ("block35_10_ac", "block17_20_ac", "conv_7b_ac"),
    ),
):
    register_encoder(
        EncoderSpec(
            name=_builder.__name__.lower(),
            builder=functools.partial(_builder, include_top=False),
            taps=[
                Tap(2, "MaxPooling2D", via="input", nth=0, padding=(1, 2)),
                Tap(4, "MaxPooling2D", via="input", nth=1, padding=(2, 2)),
                Tap(8, _layers[0], padding=(1, 2)),
                Tap(16, _layers[1], padding=(1, 1)),
                Tap(32, _layers[2], padding=(1, 1)),
            ],
            preprocessing="tf",
            min_size=75,
            imagenet=True,
            family=_family,
        )
    )


def _any_size(builder):
    """Makes a builder of NASNet that takes unknown sides.

    NASNet's cells compare the sides of their two inputs when they are built: with `None` they all look equal, and another graph
    with other weights comes out. So it is built at a known size and its graph repeated for any.
    """

    @functools.wraps(builder)
    def build(input_shape, **kwargs):
        height, width, channels = input_shape
        if height and width:
            return builder(input_shape=input_shape, **kwargs)
        model = builder(input_shape=(224, 224, channels), **kwargs)
        return keras.models.clone_model(model, input_tensors=keras.Input(input_shape))

    return build


for _builder, _cells in ((ka.NASNetMobile, (0, 5, 9)), (ka.NASNetLarge, (0, 7, 13))):
    _layers = ["adjust_relu_1_stem_2", *(f"adjust_relu_1_{i}" for i in _cells), OUTPUT]
    _register("NASNet", _any_size(_builder), _layers, "tf", padding=((0, 1),))
