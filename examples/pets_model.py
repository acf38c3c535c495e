"""The model of `train_pets.py`, and what it is trained with: its optimizer, loss and metrics."""

import dataclasses

import keras

import tl_unet


def build_model(recipe, weights):
    """A U-Net with batch normalisation in its decoder.

    VGG16's last map that `build_unet("vgg16")` uses has a stride of 16. Its last pooling gives one of stride 32, which MobileNetV2 has anyway.
    VGG's maps are in the hundreds, MobileNetV2's are normalised: without `normalize_features` the decoder on VGG16 learns far more slowly.
    """
    encoder = tl_unet.get_encoder_spec(recipe.encoder)
    deepened = encoder.stride < 32
    if deepened:
        taps = (*encoder.taps, tl_unet.Tap(stride=32, layer="block5_pool"))
        encoder = dataclasses.replace(encoder, name=f"{encoder.name}_deep", taps=taps)
    return tl_unet.build_unet(
        encoder,
        freeze=True,
        weights=weights,
        decoder_filters=recipe.filters,
        normalization="batch",
        normalize_features=deepened,
        upsampling="nearest",
    )


@keras.saving.register_keras_serializable(package="train_pets")
class Accuracy(keras.metrics.BinaryAccuracy):
    """The share of pixels that are right, without those that are 255, as `--labels` can have it."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Count a batch."""
        counted = keras.ops.cast(keras.ops.not_equal(y_true, 255), "float32")
        return super().update_state(y_true, y_pred, sample_weight=counted[..., 0])


def metrics():
    """IoU over the data set and as the mean over images, Dice, and accuracy, all at threshold 0.5 and without pixels that are 255."""
    return [
        tl_unet.IoU(ignore_index=255, name="iou"),
        tl_unet.IoU(average="image", ignore_index=255, name="iou_per_image"),
        tl_unet.DiceCoefficient(ignore_index=255, name="dice"),
        Accuracy(name="accuracy"),
    ]


@keras.saving.register_keras_serializable(package="train_pets")
class TwoRates(keras.optimizers.AdamW):
    """AdamW that moves some weights, known by their paths, by a share of the learning rate."""

    def __init__(self, learning_rate=1e-3, share=1.0, slow=(), **options):
        super().__init__(learning_rate, **options)
        self.share, self.slow = share, list(slow)
        self._slow_ids = set()

    def build(self, variables):
        """Find the slow ones. TensorFlow's optimizers are given the variables inside Keras' own."""
        super().build(variables)
        slow = [variable for variable in variables if variable.path in set(self.slow)]
        self._slow_ids = {id(variable) for variable in (*slow, *(v.value for v in slow))}

    def update_step(self, gradient, variable, learning_rate):
        """One step of one variable."""
        share = self.share if id(variable) in self._slow_ids else 1.0
        super().update_step(gradient, variable, learning_rate * share)

    def get_config(self):
        """The arguments."""
        return {**super().get_config(), "share": self.share, "slow": self.slow}


def compile_model(model, stage, steps):
    """Dice and cross-entropy; AdamW, warmed up for half an epoch, then falling along a cosine."""
    rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=steps * stage.epochs - steps // 2,
        warmup_target=stage.learning_rate,
        warmup_steps=steps // 2,
        alpha=0.02,
    )
    # VGG16's kernels are small, and were learned long ago.
    slow = [variable.path for variable in model.get_layer("encoder").trainable_variables]
    optimizer = TwoRates(
        rate, share=stage.encoder_share, slow=slow, weight_decay=0.01, global_clipnorm=1.0
    )
    loss = tl_unet.DiceLoss() + keras.losses.BinaryCrossentropy()
    model.compile(optimizer, loss, metrics=metrics())
