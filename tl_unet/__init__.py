"""tl-unet: U-Nets with pre-trained encoders for Keras 3."""

import importlib

from tl_unet.batch_norm import UpdateBatchNorm, update_batch_norm
from tl_unet.classes import balanced_class_weights
from tl_unet.decoders import DecoderSpec, get_decoder_spec, list_decoders, register_decoder
from tl_unet.deep_supervision import strip_auxiliary
from tl_unet.encoders import (
    EncoderSpec,
    Preprocessing,
    Tap,
    get_encoder_spec,
    list_encoders,
    register_encoder,
)
from tl_unet.ensembles import ensemble
from tl_unet.export import export_model
from tl_unet.exported import load_exported, max_difference
from tl_unet.feature_cache import FeatureCache, cache_features, feature_bytes
from tl_unet.folding import fold_batch_norm
from tl_unet.freezing import freeze_encoder, unfreeze_encoder
from tl_unet.inference import predict_augmented, predict_tiled
from tl_unet.inspection import feature_maps, grad_cam
from tl_unet.loss_base import LossSum
from tl_unet.losses import (
    CrossentropyLoss,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    LovaszLoss,
    TverskyLoss,
)
from tl_unet.metrics import DiceCoefficient, IoU
from tl_unet.splitting import split_model
from tl_unet.unet import build_unet

__version__ = "0.1.0"

__all__ = [
    "CrossentropyLoss",
    "DecoderSpec",
    "DiceCoefficient",
    "DiceLoss",
    "EncoderSpec",
    "FeatureCache",
    "FocalLoss",
    "IoU",
    "JaccardLoss",
    "LossSum",
    "LovaszLoss",
    "Preprocessing",
    "Tap",
    "TverskyLoss",
    "UpdateBatchNorm",
    "balanced_class_weights",
    "build_unet",
    "cache_features",
    "data",
    "ensemble",
    "export_model",
    "feature_bytes",
    "feature_maps",
    "fold_batch_norm",
    "freeze_encoder",
    "get_decoder_spec",
    "get_encoder_spec",
    "grad_cam",
    "list_decoders",
    "list_encoders",
    "load_exported",
    "max_difference",
    "plotting",
    "predict_augmented",
    "predict_tiled",
    "register_decoder",
    "register_encoder",
    "split_model",
    "strip_auxiliary",
    "unfreeze_encoder",
    "update_batch_norm",
]


# TensorFlow's input pipelines, matplotlib and the like are imported by those who use them, not by everyone.
_LATER = ("data", "evaluation", "migration", "plotting", "prediction_files", "runs", "training")


def __getattr__(name):
    if name in _LATER:
        return importlib.import_module(f"tl_unet.{name}")
    raise AttributeError(f"module 'tl_unet' has no attribute {name!r}")
