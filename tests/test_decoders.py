"""What every decoder promises, on every kind of encoder; what its paper says it costs; and that each option does something."""

import functools
import pathlib

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from tiny import TINY, tiny_backbone

import tl_unet
from tl_unet.decoders import resolve_decoder
from tl_unet.layers import UpConv2D

DECODERS = ["attention", "fpn", "linknet", "residual", "scse", "unet", "unet3plus", "unetplusplus"]
FILTERS = {"fpn": (12, 8)}  # others have one number for each up-sampling


def build(decoder, encoder=TINY, depth=5, **options):
    filters = FILTERS.get(decoder, (16, 12, 8, 8, 8)[:depth])
    defaults = dict(decoder_filters=filters, weights=None, freeze=False)
    return tl_unet.build_unet(encoder, decoder=decoder, **{**defaults, **options})


@functools.cache
def shared(decoder, classes=1):
    """One model a decoder, for tests that change nothing of it."""
    return build(decoder, classes=classes)


def numbers(tensor):
    return keras.ops.convert_to_numpy(tensor)


def count(weights):
    return sum(int(np.prod(weight.shape)) for weight in weights)


def decoder_weights(model):
    inside = {id(weight) for weight in model.get_layer("encoder").weights}
    return [w for w in model.weights if id(w) not in inside and not w.path.startswith("logits/")]


def test_the_decoders_of_the_library_are_listed():
    assert set(DECODERS) <= set(tl_unet.list_decoders())
    assert tl_unet.list_decoders("UNET*")[:1] == ["unet"]


# The contract


@pytest.mark.parametrize("decoder", DECODERS)
@hypothesis.settings(max_examples=3)
@hypothesis.given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 3]))
@hypothesis.example(45, 70, 3)
def test_masks_have_the_size_of_any_image(decoder, height, width, classes):
    model = shared(decoder, classes)
    assert model.output_shape == (None, None, None, classes)
    mask = numbers(model(np.full((2, height, width, 3), 200.0, "float32")))
    assert mask.shape == (2, height, width, classes)
    assert ((mask >= 0) & (mask <= 1)).all()
    if classes > 1:
        np.testing.assert_allclose(mask.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("decoder", DECODERS)
def test_known_sides_give_the_same_masks_and_so_does_the_saved_model(decoder, tmp_path, image):
    free, fixed = shared(decoder), build(decoder, input_shape=(45, 70, 3))
    fixed.set_weights(free.get_weights())
    assert fixed.output_shape == (None, 45, 70, 1)
    expected = numbers(free(image))
    np.testing.assert_allclose(numbers(fixed(image)), expected, atol=1e-5)
    free.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numbers(loaded(image)), expected, atol=1e-6)


@pytest.mark.parametrize("decoder", DECODERS)
def test_predict_takes_pictures_of_one_size_after_another(decoder):
    # From the second size on Keras traces `predict` with unknown sides.
    model = build(decoder, upsampling="bilinear", depth=3, encoder_depth=3)
    for sides in ((64, 64), (45, 70), (96, 33)):
        image = np.random.default_rng(0).uniform(0, 255, (1, *sides, 3)).astype("float32")
        expected = keras.ops.convert_to_numpy(model(image))
        np.testing.assert_allclose(model.predict(image, verbose=0), expected, atol=1e-5)


@pytest.mark.parametrize("normalization", [None, "group"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_training_step_changes_every_weight(decoder, normalization, image):
    model = build(decoder, normalization=normalization, bridge="aspp")
    # Plain gradient descent: a weight without a gradient stays bit equal.
    model.compile(keras.optimizers.SGD(1.0), "binary_crossentropy", run_eagerly=True)
    if normalization is None:  # no unit is dead from the start
        for weight in model.trainable_weights:
            if weight.path.endswith("bias"):
                weight.assign(keras.ops.full(weight.shape, 0.1))
    for weight in model.trainable_weights:  # scSE's squeezes have no bias
        if "_reduce/" in weight.path:
            weight.assign(keras.ops.abs(weight))
    before = [numbers(weight) for weight in model.trainable_weights]
    model.train_on_batch(image, (image[..., :1] > 128).astype("float32"))
    still = [
        weight.path
        for weight, old in zip(model.trainable_weights, before, strict=True)
        if np.array_equal(old, numbers(weight))
    ]
    assert still == []


# One backbone of each family, with how often it halves its maps.
FAMILIES = {
    "vgg16": 4,
    "mobilenet": 5,
    "mobilenetv2": 5,
    "mobilenetv3small": 5,
    "unet": 4,
    "resnet50": 5,
    "resnet50v2": 5,
    "densenet121": 5,
    "efficientnetb0": 5,
    "efficientnetv2b0": 5,
    "convnexttiny": 5,
    "inceptionv3": 5,
    "inceptionresnetv2": 5,
    "nasnetmobile": 5,
    "xception": 5,
}


ENCODERS = pathlib.Path(__file__).resolve().parents[1] / "docs" / "encoders.md"


def family_maps(name):
    """Shapes of a backbone's maps, with `None` where it has no stride.

    By the table of the documentation, to which test_encoder_contract.py holds every encoder: to
    build them once more would take long.
    """
    lines = ENCODERS.read_text().splitlines()
    row = next(line for line in lines if line.startswith(f"| `{name}` |")).split("|")
    strides, channels = ([int(number) for number in cell.split(",")] for cell in row[4:6])
    maps = {s: (96 // s, 96 // s, count) for s, count in zip(strides, channels, strict=True)}
    return [maps.get(2**i) for i in range(max(maps).bit_length())]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_decoder_works_on_the_maps_of_every_family(name):
    """The decoder never sees more of an encoder than its maps, so those are all that is needed: real channels, real gaps."""
    shapes = family_maps(name)
    assert len(shapes) - 1 == FAMILIES[name]
    for decoder in DECODERS:
        spec = resolve_decoder(decoder)
        features = [shape and keras.Input(shape) for shape in shapes]
        filters = FILTERS.get(decoder, (8,) * FAMILIES[name])
        options = dict(upsampling=spec.upsampling[-1], normalization="batch", dropout=0.0)
        (mask, stride), *_ = spec.maps(features, filters, **options)
        assert mask.shape[1:3] == (96 // stride, 96 // stride)
        inputs = [x for x in features if x is not None]
        outputs = keras.Model(inputs, mask)([np.ones((1, *x.shape[1:]), "float32") for x in inputs])
        assert np.isfinite(numbers(outputs)).all()


def test_there_is_a_representative_of_every_family():
    families = {tl_unet.get_encoder_spec(n).family for n in tl_unet.list_encoders()} - {"custom"}
    assert {tl_unet.get_encoder_spec(name).family for name in FAMILIES} == families


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_keras_model_and_a_spec_with_gaps_are_encoders_too(decoder):
    backbone = build(decoder, tiny_backbone(), preprocessing="rescale")
    assert backbone(np.zeros((1, 33, 20, 3))).shape == (1, 33, 20, 1)
    taps = [tap for tap in TINY.taps if tap.stride in (4, 16, 32)]
    spec = tl_unet.EncoderSpec("gaps", TINY.builder, taps)
    assert build(decoder, spec)(np.zeros((1, 33, 20, 3))).shape == (1, 33, 20, 1)


# Options


@pytest.mark.parametrize("decoder", DECODERS)
def test_upsampling_does_what_it_says_or_is_refused(decoder):
    spec = tl_unet.get_decoder_spec(decoder)
    for method in ("transpose", "nearest", "bilinear"):
        if method not in spec.upsampling:
            with pytest.raises(ValueError, match=f"`upsampling` must be one of .*{decoder}"):
                build(decoder, upsampling=method)
            continue
        found = set()
        for layer in build(decoder, upsampling=method).layers:
            if isinstance(layer, UpConv2D):
                found.add("nearest")
            elif "_upsample" in layer.name and "_gate" not in layer.name:
                found.add(getattr(layer, "interpolation", "transpose"))
        assert found == {method}


@pytest.mark.parametrize("decoder", DECODERS)
def test_normalization_and_dropout_are_in_every_decoder(decoder, image):
    model = build(decoder, normalization="batch", dropout=0.5)
    inner = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(inner) >= 4
    model.get_layer("encoder").trainable = False  # its own dropout stands still
    first, second = (numbers(model(image, training=True)) for _ in range(2))
    assert not np.allclose(first, second)


@pytest.mark.parametrize("decoder", sorted(set(DECODERS) - {"fpn"}))
def test_input_skip_shows_the_image_to_every_decoder_that_can_use_it(decoder):
    model = build(decoder, input_skip=True)
    images = np.full((2, 64, 64, 3), 90.0, "float32")
    images[1, 20:24, 20:24] = 255
    difference = np.abs(np.diff(numbers(model(images)), axis=0))
    assert difference.max() > 0
    assert "input_skip" in [layer.name for layer in model.layers]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(decoder="fpn", input_skip=True), "would do nothing"),
        (dict(decoder="fpn", decoder_filters=(8,) * 5), "2 positive ints .*pyramid"),
        (dict(decoder="unet", deep_supervision=True), "'unet3plus' and 'unetplusplus' have"),
        (dict(decoder="unetplusplus", deep_supervision=-1.0), "positive weight"),
        (dict(decoder="unetplusplus", deep_supervision="yes"), "positive weight"),
        (dict(decoder="unet++"), "Did you mean 'unet"),
        (dict(decoder="deeplab"), "Unknown decoder 'deeplab'"),
        (dict(bridge="psp"), "`bridge` must be one of"),
        (dict(encoder_depth=6), r"`encoder_depth` must be one of \[2, 3, 4, 5\]"),
        (dict(encoder_depth=1), "at least|`encoder_depth`"),
        (dict(decoder="attention", encoder_depth=2, decoder_filters=(8, 8)), "only one"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_the_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**{"decoder": "unet", **arguments})


def test_a_decoder_of_another_kind_is_a_type_error():
    with pytest.raises(TypeError, match="DecoderSpec"):
        tl_unet.build_unet(TINY, decoder=3)


# What the papers say


def convolution(channels, filters, kernel=3, bias=True):
    return kernel * kernel * channels * filters + bias * filters


C = [None, 4, 8, 12, 16, 20]  # channels of the tiny encoder's maps at strides 2**i
F = {4: 16, 3: 12, 2: 8, 1: 8, 0: 8}  # filters of a decoder's stage at stride 2**i


def unet_stages(extra=lambda i, incoming: 0, levels=range(4, -1, -1)):
    """Ronneberger et al.: a 2x2 up-convolution, the concatenation and two 3x3 convolutions a stage."""
    total, below = 0, C[5]
    for i in levels:
        incoming = F[i] + (C[i] or 0)
        total += convolution(below, F[i], 2) + convolution(incoming, F[i]) + convolution(F[i], F[i])
        total += extra(i, incoming)
        below = F[i]
    return total


def gate(i):
    """Oktay et al., section 2: W_x in F_l x F_int, W_g in F_g x F_int with b_g, psi in F_int x 1 with b_psi."""
    below, inner = ([*F.values()][3 - i] if i < 4 else C[5]), C[i] // 2
    return C[i] * inner + below * inner + inner + inner + 1


def unetplusplus():
    """Zhou et al., equation 1: node (i, j) sees j maps of its row and the enlarged one below; two 3x3 convolutions."""
    total, rows = 0, 5
    for j in range(1, rows):
        for i in range(1, rows + 1 - j):
            below = C[i + 1] if j == 1 else F[i + 1]
            total += convolution(below, F[i], 2)
            total += convolution(C[i] + (j - 1) * F[i] + F[i], F[i]) + convolution(F[i], F[i])
    plain = convolution(F[1], F[0], 2) + 2 * convolution(F[0], F[0])
    return total + plain


def unet3plus():
    """Huang et al., section 2.1: 3 * 3 * (sum of the channels seen * f + (5 f)^2) a stage, and biases."""
    total, decoded = 0, {5: C[5]}
    for i in (4, 3, 2, 1):
        seen = sum(C[k] for k in range(1, i + 1)) + sum(decoded[k] for k in range(i + 1, 6))
        decoded[i] = 5 * F[i]
        total += 9 * (seen * F[i] + decoded[i] ** 2) + 5 * F[i] + decoded[i]
    return total + convolution(decoded[1], F[0]) + convolution(F[0], F[0])  # bilinear: no weights


def linknet():
    """Chaurasia and Culurciello, figure 3: (m, m/4) 1x1, (m/4, m/4) 3x3 transposed, (m/4, n) 1x1; skips of other widths 1x1."""
    total, m = 0, C[5]
    for i in (4, 3, 2, 1, 0):
        total += (
            convolution(m, m // 4, 1) + convolution(m // 4, m // 4) + convolution(m // 4, F[i], 1)
        )
        total += convolution(C[i], F[i], 1) if C[i] not in (None, F[i]) else 0
        m = F[i]
    return total


def fpn():
    """Lin et al.: 1x1 laterals and a 3x3 convolution a level; Kirillov et al., figure 3: 3, 2, 1 and 1 convolutions to the branch's width."""
    pyramid, branch = FILTERS["fpn"]
    total = sum(convolution(C[i], pyramid, 1) + convolution(pyramid, pyramid) for i in (2, 3, 4, 5))
    for convolutions in (3, 2, 1, 1):
        total += convolution(pyramid, branch) + (convolutions - 1) * convolution(branch, branch)
    return total


PAPERS = {
    "unet": unet_stages,
    # He et al.: a 1x1 projection where the channels change.
    "residual": lambda: unet_stages(lambda i, n: convolution(n, F[i], 1) if n != F[i] else 0),
    # Roy et al., section 2: C * C weights for the channels and C for the pixels.
    "scse": lambda: unet_stages(lambda i, n: F[i] ** 2 + F[i]),
    # Not at the finest skip connection.
    "attention": lambda: unet_stages(lambda i, n: gate(i) if i > 1 else 0),
    "unetplusplus": unetplusplus,
    "unet3plus": unet3plus,
    "linknet": linknet,
    "fpn": fpn,
}


@pytest.mark.parametrize("decoder", DECODERS)
def test_parameters_are_those_of_the_papers_formula(decoder):
    assert count(decoder_weights(shared(decoder))) == PAPERS[decoder]()


def test_unetplusplus_and_unet3plus_have_the_papers_widths():
    model = tl_unet.build_unet("unet", decoder="unet3plus", weights=None, freeze=False)
    assert model.get_layer("decoder_node0_conv").filters == 320
    # Zhou et al., section 4: 32, 64, 128, 256 channels above a bridge of 512.
    spec = tl_unet.get_decoder_spec("unetplusplus")
    assert spec.resolved_filters(None, [None] * 5) == (256, 128, 64, 32)


def test_linknets_own_filters_are_the_skip_connections():
    model = build("linknet", decoder_filters=None)
    names = [f"decoder_stage{i}_conv3" for i in range(1, 6)]
    assert [model.get_layer(name).filters for name in names] == [16, 12, 8, 4, 32]
    assert not [layer.name for layer in model.layers if layer.name.endswith("_skip")]


def test_attention_gates_all_skips_but_the_finest_by_numbers_between_0_and_1(image):
    model = shared("attention")
    gates = [layer for layer in model.layers if layer.name.endswith("_gate_coefficients")]
    assert [layer.name[:14] for layer in gates] == [f"decoder_stage{i}" for i in (1, 2, 3)]
    values = numbers(keras.Model(model.input, gates[-1].output)(image))
    assert ((values > 0) & (values < 1)).all()


# Depth and bridge


@pytest.mark.parametrize("encoder", [TINY, "model"], ids=["spec", "model"])
def test_encoder_depth_leaves_out_the_stages_behind(encoder):
    source = tiny_backbone if encoder == "model" else lambda: TINY
    sizes = {}
    for depth in (2, 3, 5, None):
        options = dict(depth=depth or 5, encoder_depth=depth, preprocessing="rescale")
        model = build("unet", source(), **options)
        inner = model.get_layer("encoder")
        sizes[depth] = inner.count_params()
        names = [layer.name for layer in inner.layers if layer.name.startswith("conv")]
        assert names == [f"conv{i}" for i in range(1, (depth or 5) + 1)]
        assert model(np.zeros((1, 13, 50, 3))).shape == (1, 13, 50, 1)
    kernels = [
        9 * a * b + 4 * b for a, b in zip((3, 4, 8, 12, 16), (4, 8, 12, 16, 20), strict=True)
    ]
    assert sizes == {2: sum(kernels[:2]), 3: sum(kernels[:3]), 5: sum(kernels), None: sum(kernels)}


@pytest.mark.parametrize("decoder", sorted(set(DECODERS) - {"unet"}))
def test_every_decoder_works_at_depth_three_with_a_bridge(decoder):
    model = build(decoder, depth=3, encoder_depth=3, bridge="aspp")
    assert model(np.zeros((1, 13, 50, 3))).shape == (1, 13, 50, 1)


def test_weights_of_the_whole_backbone_load_at_every_depth(tmp_path):
    backbone = tiny_backbone()
    backbone.save_weights(tmp_path / "whole.weights.h5")
    for channels in (3, 5):
        model = build(
            "unet", depth=3, encoder_depth=3, weights=tmp_path / "whole.weights.h5", input_shape=(None, None, channels)
        )  # fmt: skip
        inner = model.get_layer("encoder")
        np.testing.assert_array_equal(
            numbers(inner.get_layer("conv3").kernel), numbers(backbone.get_layer("conv3").kernel)
        )


def test_depth_of_real_weights(mobilenetv2_weights):
    model = tl_unet.build_unet("mobilenetv2", weights=mobilenetv2_weights, encoder_depth=4)
    whole = tl_unet.build_unet("mobilenetv2", weights=mobilenetv2_weights)
    parts = [m.get_layer("encoder").get_layer("block_13_expand") for m in (model, whole)]
    np.testing.assert_array_equal(*(numbers(part.kernel) for part in parts))
    assert model.get_layer("encoder").count_params() < 0.4 * 2_257_984


@pytest.mark.parametrize(("depth", "rates"), [(3, (12, 24, 36)), (4, (6, 12, 18)), (5, (3, 6, 9))])
def test_aspp_has_the_papers_rates_at_every_stride_and_its_size(depth, rates):
    """Chen et al. 2017, section 3.3: rates of 6, 12, 18 at stride 16, doubled at 8; 256 filters."""
    plain, model = (
        build("unet", depth=depth, encoder_depth=depth, bridge=b) for b in ("none", "aspp")
    )
    layers = [model.get_layer(f"bridge_dilated{n}") for n in (1, 2, 3)]
    assert [layer.dilation_rate[0] for layer in layers] == list(rates)
    c, f = C[depth], 16
    branches = 2 * convolution(c, 256, 1) + 3 * convolution(c, 256)
    wider = 4 * (256 - c) * f  # the first up-convolution sees 256 channels
    assert (
        model.count_params() - plain.count_params()
        == branches + convolution(5 * 256, 256, 1) + wider
    )


# Decoders of others


def test_a_registered_decoder_is_known_by_name(monkeypatch):
    from tl_unet.decoders import registry

    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

    def shallow(features, filters, *, upsampling, normalization, dropout):
        return keras.layers.Conv2D(filters[0], 1, name="mine")(features[2])

    spec = tl_unet.DecoderSpec("shallow", shallow, filters=(6,), filter_names=("width",))
    assert tl_unet.register_decoder(spec) is tl_unet.get_decoder_spec("Shallow")
    model = build("shallow", decoder_filters=None)
    assert model.name == "shallow_tiny"
    assert model(np.zeros((1, 45, 70, 3))).shape == (1, 45, 70, 1)
    with pytest.raises(ValueError, match="registered already"):
        tl_unet.register_decoder(spec)
    with pytest.raises(TypeError, match="DecoderSpec"):
        tl_unet.register_decoder(shallow)


def _resized(features, filters, **options):
    return keras.layers.Resizing(10, 10)(features[0] if features[0] is not None else features[1])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda features, filters, **options: None, "must return a map"),
        (lambda features, filters, **options: [features[-1]], "must return a map"),
        (_resized, "power of two smaller"),
    ],
)
def test_a_decoder_that_returns_no_map_of_a_known_stride_is_an_error(function, message):
    with pytest.raises(ValueError, match=message):
        tl_unet.build_unet(
            TINY, decoder=tl_unet.DecoderSpec("mine", function), weights=None, freeze=False
        )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (dict(builder=3), TypeError),
        (dict(upsampling=("cubic",)), ValueError),
        (dict(upsampling="nearest"), ValueError),
    ],
)
def test_a_bad_decoder_spec_is_an_error(arguments, error):
    with pytest.raises(error, match="builder|upsampling"):
        tl_unet.DecoderSpec(**{"name": "mine", "builder": _resized, **arguments})
