import io

import numpy as np
import pytest

import tl_unet

pytest.importorskip("matplotlib")
from matplotlib.text import Annotation, Text
from tiny import TINY

from tl_unet.plotting import (
    architecture_diagram,
    class_bars,
    class_colours,
    confusion_matrix,
    error_overlay,
    error_sheet,
    feature_map_sheet,
    heat_overlay,
    learning_curves,
    overlay,
    prediction_panel,
)

HISTORY = {
    "loss": [0.6, 0.4, 0.3],
    "val_loss": [0.7, 0.5, 0.6],
    "iou": [0.3, 0.5, 0.6],
    "val_iou": [0.2, 0.4, 0.3],
}


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.fixture(scope="module")
def munet():
    with pytest.warns(UserWarning, match="frozen with random weights"):
        return tl_unet.build_unet("mobilenetv2", weights=None, input_skip=True)


def test_every_metric_gets_a_panel_with_training_and_validation():
    figure = learning_curves(HISTORY)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "iou"]
    training, validation = figure.axes[1].get_lines()
    np.testing.assert_array_equal(training.get_ydata(), HISTORY["iou"])
    np.testing.assert_array_equal(validation.get_ydata(), HISTORY["val_iou"])
    np.testing.assert_array_equal(training.get_xdata(), [1, 2, 3])


def test_learning_curves_take_a_keras_history():
    import keras

    history = keras.callbacks.History()
    history.history = HISTORY
    assert len(learning_curves(history).axes) == 2


def test_metrics_chooses_the_panels_and_their_order():
    figure = learning_curves(HISTORY, ["iou", "loss"])
    assert [axes.get_title() for axes in figure.axes] == ["iou", "loss"]


def test_a_reference_is_drawn_beside_the_curves_and_named():
    figure = learning_curves(
        HISTORY, ["loss"], reference={"loss": [0.9] * 5}, reference_label="paper"
    )
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert len(lines["training, paper"].get_ydata()) == 5
    assert "validation, paper" not in lines


def test_a_reference_of_another_pace_is_drawn_to_the_axis_of_the_curves():
    figure = learning_curves(HISTORY, ["loss"], reference={"loss": [0.9] * 5}, reference_pace=10)
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    np.testing.assert_allclose(lines["training, reference"].get_xdata()[[0, 4]], [0.1, 0.5])


def test_best_epoch_is_marked():
    def marked(figure):
        return [line for line in figure.axes[0].get_lines() if "best" in str(line.get_label())]

    assert marked(learning_curves(HISTORY, best_epoch=2))[0].get_xdata()[0] == 2
    assert not marked(learning_curves(HISTORY))


@pytest.mark.parametrize(("history", "metrics"), [({}, None), (HISTORY, ["dice"])])
def test_curves_that_are_not_there_are_an_error(history, metrics):
    with pytest.raises(ValueError, match="nothing to draw"):
        learning_curves(history, metrics)


def test_a_history_of_another_type_is_an_error():
    with pytest.raises(ValueError, match=r"model\.fit"):
        learning_curves([0.5, 0.4])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_panel_shows_image_truth_and_each_prediction(channels):
    images = np.full((2, 8, 8, channels), 255, "uint8")
    masks, raw = np.ones((2, 8, 8, 1)), np.full((2, 8, 8, 1), 0.3)
    figure = prediction_panel(images, masks, {"V-Unet": raw, "M-Unet": raw})
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image", "truth", "V-Unet", "M-Unet"]
    assert len(figure.axes) == 8
    shown = [axes.images[0] for axes in figure.axes[:3]]
    assert float(shown[0].get_array().max()) == 1.0
    np.testing.assert_allclose(shown[2].get_array(), 0.3)
    assert shown[2].get_clim() == (0, 1)  # 0.3 is shown as 0.3, not stretched to black or white


def test_threshold_turns_probabilities_into_a_mask():
    images, masks = np.zeros((1, 4, 4, 3)), np.zeros((1, 4, 4))
    prediction = {"m": np.linspace(0, 1, 16).reshape(1, 4, 4, 1)}
    shown = prediction_panel(images, masks, prediction, threshold=0.5).axes[2].images[0].get_array()
    assert set(np.unique(shown)) == {0.0, 1.0}


def test_several_classes_are_shown_in_their_colours():
    images, masks = np.zeros((1, 4, 4, 3)), np.zeros((1, 4, 4), "int32")
    masks[0, :2], masks[0, 3] = 2, 255
    prediction = np.eye(3)[np.where(masks == 255, 1, masks)]
    for truth in (masks, masks[..., None]):
        axes = prediction_panel(images, truth, {"m": prediction}).axes
        shown = [axes[i].images[0].get_array() * 255 for i in (1, 2)]
        colours = class_colours(3)
        for picture in shown:
            np.testing.assert_allclose(picture[:2], np.broadcast_to(colours[2], (2, 4, 3)))
            np.testing.assert_allclose(picture[2], np.broadcast_to(colours[0], (4, 3)))
        np.testing.assert_allclose(shown[0][3], 128)  # ignored
        np.testing.assert_allclose(shown[1][3], np.broadcast_to(colours[1], (4, 3)))
    one_hot = prediction_panel(images, prediction, {"m": prediction}).axes
    np.testing.assert_allclose(one_hot[1].images[0].get_array() * 255, shown[1])


def test_the_panel_of_named_classes_has_a_legend():
    images, masks = np.zeros((1, 4, 4, 3)), np.zeros((1, 4, 4), "int32")
    figure = prediction_panel(images, masks, {}, class_names=["background", "cat", "dog"])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["background", "cat", "dog"]
    with pytest.raises(ValueError, match="class 3 is shown"):
        prediction_panel(images, masks + 3, {}, class_names=["background", "cat", "dog"])


def test_ignored_pixels_of_one_class_are_grey_in_the_panel():
    masks = np.array([[[0, 1, 255]]])
    shown = prediction_panel(np.zeros((1, 1, 3, 3)), masks, {}).axes[1].images[0]
    assert shown.get_array().tolist() == [[0, 1, 0.5]]
    assert shown.get_clim() == (0, 1)


def test_names_stand_beside_the_rows():
    images, masks = np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4))
    figure = prediction_panel(images, masks, {}, names=["cat_1", "a_name_that_is_much_too_long"])
    assert figure.axes[0].get_ylabel() == "cat_1"
    assert figure.axes[2].get_ylabel().endswith("…")


@pytest.mark.parametrize(
    "wrong",
    [
        {"masks": np.zeros((1, 4, 4))},
        {"predictions": {"M-Unet": np.zeros((3, 4, 4, 1))}},
        {"names": ["one"]},
    ],
)
def test_different_numbers_of_pictures_are_an_error(wrong):
    given = {"images": np.zeros((2, 4, 4, 3)), "masks": np.zeros((2, 4, 4)), "predictions": {}}
    with pytest.raises(ValueError, match="There are 2 images"):
        prediction_panel(**(given | wrong))


def test_diagram_shows_the_sizes_and_channels_of_the_built_model(munet):
    drawn = texts(architecture_diagram(munet, image_size=96))
    assert "image\n96 × 96 × 3" in drawn
    assert "mask\n96 × 96 × 1" in drawn
    assert "1280 channels\n3 × 3" in drawn  # the bridge
    assert "576 channels\n6 × 6" in drawn  # the encoder's stride 16
    assert "512 channels\n6 × 6" in drawn  # the decoder's first stage


def test_diagram_colours_what_is_frozen_and_what_is_trained(munet):
    def colours():
        return {patch.get_facecolor() for patch in architecture_diagram(munet).axes[0].patches}

    assert len(colours()) == 3  # image and mask, frozen, trained
    tl_unet.unfreeze_encoder(munet)
    assert len(colours()) == 2
    tl_unet.freeze_encoder(munet)


def test_diagram_has_an_arrow_for_each_skip_connection(munet):
    def skips(model):
        labels = architecture_diagram(model).axes[0].texts
        arrows = [label.arrow_patch for label in labels if isinstance(label, Annotation)]
        return sum(arrow.get_linestyle() == "--" for arrow in arrows)

    assert skips(munet) == 5  # four of the encoder's maps and the image
    assert skips(tl_unet.build_unet("mobilenetv2", freeze=False, weights=None)) == 4


def test_diagram_of_a_model_without_an_encoder_is_an_error():
    import keras

    with pytest.raises(ValueError, match="build_unet"):
        architecture_diagram(keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]))


def test_overlay_colours_the_classes_and_leaves_the_background():
    image = np.full((6, 6, 3), 100, "uint8")
    mask = np.zeros((6, 6, 1), "uint8")
    mask[:, 3:] = 2
    mask[0, 0] = 255
    shown = overlay(image, mask, alpha=1, outline=False)
    np.testing.assert_array_equal(shown[:, :3], image[:, :3])
    assert (shown[:, 3:] == class_colours(3)[2]).all()
    outlined = overlay(image, mask, alpha=0.0)
    assert (outlined[:, 3] == class_colours(3)[2]).all()
    np.testing.assert_array_equal(outlined[:, 4:], image[:, 4:])


@pytest.mark.parametrize("scale", [1, 255])
@pytest.mark.parametrize("channels", [None, 1, 3, 5])
def test_overlay_takes_images_of_any_range_and_channels(channels, scale):
    shape = (4, 4) if channels is None else (4, 4, channels)
    shown = overlay(np.full(shape, 0.5 * scale), np.zeros((4, 4)))
    assert shown.shape == (4, 4, 3)
    assert abs(int(shown.mean()) - 127) <= 1


def test_overlays_of_other_sides_are_an_error():
    with pytest.raises(ValueError, match="sides"):
        overlay(np.zeros((4, 4, 3)), np.zeros((4, 5)))
    with pytest.raises(ValueError, match="sides"):
        error_overlay(np.zeros((4, 4, 3)), np.zeros((4, 4)), np.zeros((5, 4)))
    with pytest.raises(ValueError, match="class 3"):
        overlay(np.zeros((1, 1, 3)), np.full((1, 1), 3), colours=class_colours(2))


def test_error_overlay_tells_hits_from_misses_and_ignores_255():
    truth, guess = np.array([[1, 1, 0, 0, 255, 2]]), np.array([[1, 0, 1, 0, 1, 1]])
    shown = error_overlay(np.zeros((1, 6, 3)), truth, guess, alpha=1)[0]
    hit, miss, alarm, ground, ignored, confused = map(tuple, shown)
    assert len({hit, miss, alarm, ground}) == 4
    assert ground == ignored == (0, 0, 0)
    assert confused == alarm


def test_class_colours_are_all_different():
    assert len({tuple(colour) for colour in class_colours(40)}) == 40
    assert tuple(class_colours(40)[0]) == (0, 0, 0)


def test_error_sheet_shows_pictures_of_any_sizes():
    images = [np.zeros((8, 10, 3)), np.zeros((20, 10, 3)), np.zeros((5, 5, 1))]
    masks = [np.zeros(image.shape[:2], "uint8") for image in images]
    figure = error_sheet(images, masks, masks, names=["a", "b", "c" * 60], title="worst")
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 6
    assert shown[4].get_title(loc="left").endswith("…")
    with pytest.raises(ValueError, match="3 images"):
        error_sheet(images, masks, masks[:2])
    with pytest.raises(ValueError, match="0 images"):
        error_sheet([], [], [])


def test_confusion_matrix_shows_shares_of_the_true_class():
    figure = confusion_matrix([[3, 1], [0, 0]], title="t")
    assert texts(figure) == ["75.0", "25.0", "0.0", "0.0"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "1"]
    assert not texts(confusion_matrix(np.eye(20)))
    with pytest.raises(ValueError, match="square"):
        confusion_matrix([[1, 2]])
    with pytest.raises(ValueError, match="2 classes, but 1 names"):
        confusion_matrix(np.eye(2), ["one"])


def test_class_bars_show_each_score_of_each_class():
    figure = class_bars({"IoU": [0.5, np.nan], "Dice": [0.6, 0.1]}, ["cat", "dog"])
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    assert widths == [0.5, 0.0, 0.6, 0.1]
    assert "–" in texts(figure)
    assert len(class_bars({"IoU": [0.5]}).axes[0].patches) == 1
    with pytest.raises(ValueError, match="equally many"):
        class_bars({"IoU": [0.5], "Dice": [0.5, 0.6]})
    with pytest.raises(ValueError, match="at least one"):
        class_bars({})


@pytest.mark.parametrize(
    "decoder", ["attention", "fpn", "linknet", "scse", "unetplusplus", "unet3plus"]
)
def test_diagram_draws_every_decoder_and_leaves_out_auxiliary_masks(decoder):
    options = {"encoder": TINY, "weights": None, "freeze": False, "bridge": "aspp"}
    if decoder in ("unetplusplus", "unet3plus"):
        options["deep_supervision"] = True
    model = tl_unet.build_unet(decoder=decoder, **options)
    figure = architecture_diagram(model, image_size=64)
    shown = texts(figure)
    assert "mask\n64 × 64 × 1" in shown
    assert not [text for text in shown if "None" in text]
    skips = [
        text for text in figure.axes[0].texts
        if isinstance(text, Annotation) and text.arrowprops["linestyle"] == "--"
    ]  # fmt: skip
    assert len(skips) == {"fpn": 3}.get(decoder, 4)


def test_heat_overlay_is_grey_where_nothing_covers_and_the_colour_map_where_all_does():
    image = np.random.default_rng(0).integers(0, 256, (3, 4, 3), "uint8")
    heat = np.zeros((3, 4))
    heat[0, 0] = 1
    grey = heat_overlay(image, heat, alpha=0)
    np.testing.assert_array_equal(grey, image.mean(-1).astype("uint8")[..., None].repeat(3, -1))
    full = heat_overlay(image, heat, alpha=1)
    assert full[0, 0].tolist() == [252, 254, 164]
    assert (full[1:] == full[1, 1]).all()
    assert heat_overlay(image, heat, colormap="viridis", alpha=1)[0, 0].tolist() == [253, 231, 36]


def test_heat_of_another_size_or_range_is_an_error():
    with pytest.raises(ValueError, match="sides"):
        heat_overlay(np.zeros((3, 4, 3)), np.zeros((4, 3)))
    for wrong in (2, -1, np.nan):
        with pytest.raises(ValueError, match=r"in 0\.\.1"):
            heat_overlay(np.zeros((3, 4, 3)), np.full((3, 4), wrong))


def test_feature_map_sheet_shows_the_channels_of_most_variance_first():
    maps = {2: np.zeros((4, 4, 3)), 4: np.zeros((2, 2, 2))}
    maps[2][0, 0] = [1, 3, 2]
    figure = feature_map_sheet(maps, columns=2, image=np.zeros((8, 8, 3)), title="t")
    assert [axes.get_title() for axes in figure.axes] == ["", "1", "2", "", "0", "1"]
    assert "stride 4\n2x2\n2 channels" in figure.axes[3].get_ylabel()
    for wrong in ({}, {2: np.zeros((4, 4))}):
        with pytest.raises(ValueError, match="one or more arrays"):
            feature_map_sheet(wrong)
    with pytest.raises(ValueError, match="columns=0"):
        feature_map_sheet(maps, columns=0)


def test_feature_map_sheet_leaves_cells_empty_where_channels_are_few():
    figure = feature_map_sheet({2: np.zeros((4, 4, 3))}, columns=5)
    assert [bool(axes.images) for axes in figure.axes] == [True, True, True, False, False]


@pytest.mark.parametrize("name", ["$5_or_$7", r"a$\nothing$b", "caf\udce9"])
def test_names_are_shown_as_they_are(name):
    """Two dollars would be a formula for matplotlib, an error if it is none; names of files need not be UTF-8."""
    image, mask = np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8), int)
    names, shown = [name, "b"], name.replace("\udce9", "?")
    figures = [
        prediction_panel(image, mask, {name: mask}, names=[name], class_names=names),
        error_sheet(image, mask, mask, names=[name]),
        confusion_matrix(np.eye(2), names),
        class_bars({"IoU": [0.5, 0.5], "Dice": [0.5, 0.5]}, names),
        learning_curves({f"iou_{name}": [0.5]}),
    ]
    for figure in figures:
        figure.savefig(io.BytesIO())
        texts = [text for text in figure.findobj(Text) if shown in text.get_text()]
        assert texts
        assert not any(text.get_parse_math() for text in texts)


def test_predictions_of_one_class_may_lack_its_axis():
    images, masks = np.zeros((2, 8, 8, 3)), np.zeros((2, 8, 8))
    found = [
        prediction_panel(images, masks, {"m": np.full(shape, 0.5)}).axes[2].images[0].get_array()
        for shape in ((2, 8, 8), (2, 8, 8, 1))
    ]
    np.testing.assert_array_equal(*found)
    assert (found[0] == 0.5).all()
    with pytest.raises(ValueError, match=r"'m' has \(2, 8\)"):
        prediction_panel(images, masks, {"m": np.zeros((2, 8))})
