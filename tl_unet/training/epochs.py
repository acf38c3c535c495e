"""The epochs of a training: what is trained in which stage, and what is written after each."""

import math
import time
import warnings

import keras
import numpy as np

from tl_unet.batch_norm import UpdateBatchNorm
from tl_unet.classes import IGNORE, decide
from tl_unet.freezing import freeze_encoder, unfreeze_encoder
from tl_unet.metrics import DiceCoefficient, IoU
from tl_unet.runs import replacing
from tl_unet.training.images import TrainingImages, count_classes
from tl_unet.training.options import make_loss
from tl_unet.training.records import log_row, tensorboard_writers
from tl_unet.unet import build_unet

_SHOWN = 6  # validation images in the picture of each epoch
_REPRESENTATIVE = 50  # batches, whose statistics are those of all
_SLOWER = 2.0  # an epoch of the whole network against one of the decoder, before either was seen


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number."""


def best_epoch(rows: list[dict[str, float]]) -> int:
    """The epoch, counted from 1, with the highest validation IoU; the first of equals."""
    return 1 + int(np.argmax([row["val_iou"] for row in rows]))


class Training:
    """One process' share of a training."""

    def __init__(self, run, options, names, report):
        self.run, self.options, self.names, self.report = run, options, names, report
        self.data = TrainingImages(run, options, names)
        self.classes = count_classes(options)
        self.steps = -(-len(names["train"]) // options.batch_size)
        self.seconds = {1: [], 2: []}  # of the epochs of each stage that this process has seen

    def run_epochs(self, rows):
        """Trains the epochs that have no row yet and writes the model; returns all rows."""
        run, options = self.run, self.options
        self.report("data", **{part: len(names) for part, names in self.names.items()})
        self.data.check()
        self.validation = self.data.validation_set()
        self.samples = self.data.samples(_SHOWN)
        model = self._model(pretrained=not rows)
        writers = tensorboard_writers(run.logs, rows)
        stage = told = None
        if rows:  # the stage of the last checkpoint, which may be over
            stage = self._enter(model, self._stage(len(rows)))
            model.load_weights(run.checkpoint(len(rows)))
        for epoch in range(len(rows) + 1, options.epochs + 1):
            if self._stage(epoch) != stage:
                stage = self._enter(model, self._stage(epoch))
            if stage != told:
                self._tell_stage(model, stage)
                told = stage
            row = self._epoch(model, epoch, stage)
            rows = [*rows, row]
            self._save(model, rows)
            for kind, writer in writers.items():
                log_row(writer, row, kind)
            left = self._seconds_left(epoch)
            self.report(
                "epoch", epochs=options.epochs, best=best_epoch(rows), seconds_left=left, **row
            )
        self._write_model(model, run.checkpoint(best_epoch(rows)))
        return rows

    def _model(self, pretrained):
        options = self.options
        return build_unet(
            options.encoder,
            freeze=False,
            weights=options.weights if pretrained else None,
            input_shape=(None, None, options.channels),
            classes=self.classes,
            decoder=options.decoder,
            decoder_filters=options.decoder_filters,
            normalization=options.normalization,
            upsampling=options.upsampling,
            dropout=options.dropout,
        )

    def _stage(self, epoch):
        return 1 if epoch <= self.options.freeze_epochs else 2

    def _epochs(self, stage):
        frozen = self.options.freeze_epochs
        return frozen if stage == 1 else self.options.epochs - frozen

    def _enter(self, model, stage):
        """Compiles the model for a stage: 1 on a frozen encoder, 2 everything."""
        options, frozen = self.options, self.options.freeze_epochs
        if stage == 1:
            freeze_encoder(model)
        else:  # random BatchNorm has to learn, faster than backbones do for ImageNet; ImageNet's stays
            random = options.weights is None
            momentum = 0.9 if random else None
            unfreeze_encoder(model, batch_norm=random, batch_norm_momentum=momentum)
        epochs = self._epochs(stage)
        rate = options.learning_rate / (10 if stage == 2 and frozen else 1)
        warm = max(1, self.steps // 2)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, self.steps * epochs - warm), 0.02, warmup_target=rate, warmup_steps=warm
        )
        model.compile(
            keras.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0),
            make_loss(options.loss, options.class_weights),
            metrics=[
                IoU(ignore_index=IGNORE, class_names=options.class_names),
                DiceCoefficient(ignore_index=IGNORE),
            ],
            jit_compile="auto" if _has_gpu() else False,  # on a processor XLA is slower
        )
        # Variables that the first step made would make TensorFlow trace it twice, and no checkpoint could fill them.
        model.optimizer.build(model.trainable_variables)
        mask = np.zeros((1, *options.size, 1), "float32")
        uniform = np.full((1, *options.size, self.classes), 1 / self.classes, "float32")
        model.compute_metrics(None, mask, uniform)
        # Else JAX and PyTorch take a batch to build the loss with, and an epoch after a resume sees another order.
        model.compute_loss(y=mask, y_pred=uniform)
        model.reset_metrics()
        return stage

    def _tell_stage(self, model, stage):
        trained = sum(math.prod(weight.shape) for weight in model.trainable_weights)
        self.report("stage", stage=stage, epochs=self._epochs(stage), parameters=trained)

    def _epoch(self, model, epoch, stage):
        begun = time.perf_counter()
        _seed_dropout(model, self.options.seed, epoch)
        callbacks = [_Progress(self, epoch)]
        if self.options.normalization == "batch":
            callbacks.append(UpdateBatchNorm(self.data.plain_set(), batches=_REPRESENTATIVE))
        history = model.fit(
            self.data.training_set(epoch),
            validation_data=self.validation,
            initial_epoch=epoch - 1,
            epochs=epoch,
            shuffle=False,  # the data set shuffles itself
            verbose=0,
            callbacks=callbacks,
        ).history
        seconds = time.perf_counter() - begun
        self.seconds[stage].append(seconds)
        row = {"epoch": epoch, "stage": stage}
        row |= {name: float(values[-1]) for name, values in history.items()}
        self.check_row(epoch, row)
        rate = keras.ops.convert_to_numpy(model.optimizer.learning_rate)
        return {**row, "learning_rate": float(rate), "seconds": seconds}

    def check_row(self, epoch, row):
        """Stops a training whose scores are no numbers; a named class that occurs nowhere has none, which is no failure."""
        names = self.options.class_names or ()
        named = {f"{part}iou_{name}" for part in ("", "val_") for name in names}
        self._check_finite(epoch, *(value for name, value in row.items() if name not in named))

    def _check_finite(self, epoch, *values):
        if not all(map(math.isfinite, values)):
            raise TrainingDiverged(
                f"The loss is no longer a number in epoch {epoch}: the training has diverged. The epochs before are in "
                f"{self.run.path}. Start anew with a smaller learning rate (it was {self.options.learning_rate:g}) or another "
                "loss."
            )

    def _save(self, model, rows):
        """Writes an epoch. Its row comes last of what the next epoch needs: without a row it was not."""
        run, epoch = self.run, len(rows)
        try:
            with replacing(run.checkpoint(epoch), durable=True) as beside:
                model.save_weights(beside)
            self._draw_samples(model, rows)
            run.write_history(rows)
            keep = {run.checkpoint(epoch), run.checkpoint(best_epoch(rows))}
            for path in set(run.checkpoints.iterdir()) - keep:
                path.unlink()
            self._draw_curves(rows)
        except (OSError, RuntimeError) as error:  # HDF5 raises either when the disk is full
            done = len(run.read_history())
            raise OSError(
                f"Epoch {epoch} could not be saved: {error}. The {done} epochs before are intact in {run.path}; make room there "
                "and go on with --resume (or tl_unet.training.resume)."
                if done < epoch
                else f"A file of epoch {epoch} could not be written: {error}. The epoch itself is saved in {run.path}; go on "
                "with --resume (or tl_unet.training.resume)."
            ) from error

    def _write_model(self, model, checkpoint):
        plain = keras.Model(model.inputs, model.outputs, name=model.name)  # without the optimizer
        plain.load_weights(checkpoint)
        try:
            with replacing(self.run.model, durable=True) as beside:
                plain.save(beside)
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"The model could not be saved: {error}. All epochs are intact in {self.run.path}; make room there and go on "
                "with --resume (or tl_unet.training.resume)."
            ) from error

    def _seconds_left(self, epoch):
        frozen, total = self.options.freeze_epochs, self.options.epochs
        one, two = (
            # The first epoch also holds the tracing of the graph.
            float(np.mean(seconds[1:] or seconds)) if seconds else None
            for seconds in self.seconds.values()
        )
        two = one * _SLOWER if two is None else two
        return max(0, frozen - epoch) * (one or 0.0) + (total - max(epoch, frozen)) * two

    def _draw_samples(self, model, rows):
        images, masks, names = self.samples
        predictions = decide(model.predict_on_batch(images))
        title = f"epoch {len(rows)}, validation IoU {rows[-1]['val_iou']:.3f}"

        def draw():
            from tl_unet.plotting import error_sheet

            return error_sheet(images, masks, predictions, names=names, title=title)

        _save_figure(self.run.predictions / f"epoch-{len(rows):03d}.png", draw)

    def _draw_curves(self, rows):
        def draw():
            from tl_unet.plotting import learning_curves

            history = {name: [row[name] for row in rows] for name in rows[0]}
            names = ["loss", "iou", "dice", "learning_rate"]
            return learning_curves(history, names, best_epoch=best_epoch(rows))

        _save_figure(self.run.curves, draw)


def _save_figure(path, draw):
    """Writes the figure that a function draws. One that can't be drawn is a warning: hours of training are worth more."""
    try:
        figure = draw()
        with replacing(path) as beside:
            figure.savefig(beside)
    except ImportError:  # without matplotlib there are no pictures
        return
    except OSError:  # a full disk, on which the next checkpoint would fail too
        raise
    except Exception as error:
        warnings.warn(f"{path} could not be drawn: {error}", stacklevel=2)


class _Progress(keras.callbacks.Callback):
    def __init__(self, training, epoch):
        super().__init__()
        self.training, self.epoch = training, epoch

    def on_train_batch_end(self, batch, logs=None):
        loss = float((logs or {}).get("loss", math.nan))
        self.training._check_finite(self.epoch, loss)
        steps = self.training.steps
        self.training.report("batch", epoch=self.epoch, step=batch + 1, steps=steps, loss=loss)


def _seed_dropout(model, seed, epoch):
    """Makes what dropout draws in an epoch follow from its number: weights files do not hold the state of the generators."""
    # PyTorch's dropout draws from its global generator.
    keras.utils.set_random_seed(int(np.random.default_rng((seed, epoch)).integers(2**31)))
    for i, variable in enumerate(model.non_trainable_variables):
        if "seed_generator" in variable.path:
            first = np.random.default_rng((seed, epoch, i)).integers(2**31)
            variable.assign(np.array([first, 0], variable.dtype))


def _has_gpu():
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow

    return bool(tensorflow.config.list_physical_devices("GPU"))
