"""Plots of trainings, predictions and scores, and of the network as it was built.

Most functions return a matplotlib `Figure` to show, change or save (`figure.savefig("curves.png")`); `overlay`,
`error_overlay` and `heat_overlay` return arrays. Matplotlib is imported when a function is called, so that the rest of the library does without it.
"""

from tl_unet.plotting.architecture import architecture_diagram
from tl_unet.plotting.curves import learning_curves
from tl_unet.plotting.features import feature_map_sheet, heat_overlay
from tl_unet.plotting.figures import class_colours
from tl_unet.plotting.overlays import error_overlay, overlay
from tl_unet.plotting.panels import error_sheet, prediction_panel
from tl_unet.plotting.scores import class_bars, confusion_matrix

__all__ = [
    "architecture_diagram",
    "class_bars",
    "class_colours",
    "confusion_matrix",
    "error_overlay",
    "error_sheet",
    "feature_map_sheet",
    "heat_overlay",
    "learning_curves",
    "overlay",
    "prediction_panel",
]
