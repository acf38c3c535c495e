"""A run from its options to its report: models one after another, `results.json` rewritten after each step."""

import dataclasses
import math
import shutil
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from paper import figures, pictures, report
from paper.environment import environment
from paper.features import cached_features
from paper.files import replacing, write_json, write_text
from paper.options import SKIPPED, Options
from paper.recipes import MODELS, build_arguments, compiled_model, learning_rate
from paper.source_task import train_encoder
from paper.training import best_epoch, diverged, duration, fit

SCRATCH = "unet"  # the encoder that has no pre-trained weights
_DOWNLOAD = "weights_tf_dim_ordering_tf_kernels"
# What the files that Keras downloads are called, and has in ~/.keras/models.
DOWNLOADS = {
    "vgg16": f"vgg16_{_DOWNLOAD}_notop.h5",
    "densenet121": f"densenet121_{_DOWNLOAD}_notop.h5",
    "resnet50": f"resnet50_{_DOWNLOAD}_notop.h5",
    "mobilenetv2": f"mobilenet_v2_{_DOWNLOAD}_1.0_224_no_top.h5",
}
FINISHED = ("done", "diverged")
TENSORFLOWS_SEED = 87654321  # what TensorFlow takes for its global seed where none was set


class UnreadablePictures(Exception):
    """The pictures of a run could not be had; nothing was begun."""


class Experiment:
    """One run.

    Args:
        options: what to do.
        output: directory to write.
        command: the command line, for the report.
        previous: the content of `results.json` of the run that is resumed, or `None`.
        feature_cache: `"auto"`, `"disk"` or `"off"`, as in `--help`. It decides how fast a run is, not what it computes.
    """

    def __init__(
        self,
        options: Options,
        output: Path,
        command: str,
        previous: dict | None,
        feature_cache: str = "off",
    ):
        self.options, self.output, self.feature_cache = options, output, feature_cache
        fresh = {
            "status": "running",
            "weights_source": options.weights_source,
            "environment": environment(),
            "data": None,
            "source_task": {},
            "models": {},
        }
        # A resumed run may have been given another number of epochs.
        asked = {"command": command, "configuration": dataclasses.asdict(options)}
        self.results = fresh | (previous or {}) | asked | {"status": "running"}
        machines = [self.results["environment"], *self.results.get("resumed_on", [])]
        if fresh["environment"] not in machines:
            self.results["resumed_on"] = [*machines[1:], fresh["environment"]]

    def run(self) -> int:
        """Run every model that is not done, and write the report.

        Returns:
            0, or `SKIPPED` if the weights of a model could not be had.

        Raises:
            UnreadablePictures: if they are not there, or damaged.
        """
        options = self.options
        write_json(self.output / "results.json", self.results)  # from now on --resume knows it
        print(f"Reading the pictures ({options.data}) ...", flush=True)
        try:
            parts = self._read()
        except (ImportError, OSError, ValueError) as error:
            if self.results["data"] is None:  # no run yet: another --data may follow
                (self.output / "results.json").unlink()
            raise UnreadablePictures(str(error)) from error
        self._store()
        images, masks, names = pictures.examples(parts, figures.PICTURES)
        models = self.results["models"]
        # What was skipped is tried again: its weights may have come.
        waiting = [n for n in options.models if models.get(n, {}).get("status") not in FINISHED]
        for number, name in enumerate(waiting):
            print(f"\n{MODELS[name].title} ({number + 1} of {len(waiting)})", flush=True)
            # Each pass has an order of its own: a model's must not depend on those before it.
            if number:
                parts = self._read()
            models[name] = self._run_model(name, parts, waiting[number + 1 :], images)
            self._store()
            self._draw(name)
        for name in options.models:
            self._draw(name)  # a resumed run may have stopped before it had drawn everything
        figures.predictions(self.results, self.output, images, masks, names)
        figures.architecture(options, self.output)
        self.results["status"] = "complete"
        self._store()
        skipped = [name for name in options.models if models[name]["status"] == "skipped"]
        for name in skipped:
            print(f"{MODELS[name].title} was skipped: {models[name]['reason']}")
        print(f"\nReport: {self.output / 'report.md'}")
        return SKIPPED if skipped else 0

    def _read(self):
        """The pictures by part, and in the results what they are."""
        # A data set's seed is mixed with TensorFlow's global one, which the model before has set.
        tf.random.set_seed(TENSORFLOWS_SEED)
        parts = pictures.load(self.options)
        self.results["data"] = pictures.composition(parts, self.options)
        return parts

    def _run_model(self, name, parts, later, images) -> dict:
        """Train and evaluate one model; its entry in the results."""
        options = self.options
        keras.utils.clear_session()
        if options.mixed_precision:  # for each model: clear_session forgets it
            keras.config.set_dtype_policy(f"mixed_{options.mixed_precision}")
        keras.utils.set_random_seed(options.seed)
        try:
            weights = self._weights(MODELS[name].encoder)
            # Once more, since a source task may or may not have drawn random numbers.
            keras.utils.set_random_seed(options.seed)
            model = compiled_model(name, options, weights)
        except FileNotFoundError as error:
            return {"status": "skipped", "reason": str(error)}
        except ValueError as error:
            if options.weights_source != "directory":
                raise
            return {"status": "skipped", "reason": str(error)}  # the file is of something else
        entry = {
            "status": "done",
            "build_unet": build_arguments(name, options),
            "learning_rate": learning_rate(name, options),
            "parameters": model.count_params(),
            "trainable_parameters": sum(int(np.prod(w.shape)) for w in model.trainable_weights),
        }
        features = cached_features(model, name, parts, options, self.output, self.feature_cache)
        history = fit(model, parts, name, options, self.output, later, features)
        best = best_epoch(history)
        entry |= {
            "epochs": len(history["epoch"]),
            "best_epoch": best,
            "seconds_per_epoch": float(np.median(history["seconds"])),
            "seconds": float(np.sum(history["seconds"])),
        }
        if diverged(history):
            entry |= {
                "status": "diverged",
                "reason": f"the loss was no number in epoch {entry['epochs']}",
            }
        if best is not None:
            for part in ("validation", "test"):
                scores = model.evaluate(parts[part].dataset, return_dict=True, verbose=0)
                entry[part] = {k: v if math.isfinite(v) else None for k, v in scores.items()}
            self._keep(name, model, images)
        print(f"{MODELS[name].title}: done, {duration(entry['seconds'])} of training", flush=True)
        return entry

    def _weights(self, encoder):
        """What `build_unet` is to be given as `weights`; trains the source task where that is its origin."""
        if encoder == SCRATCH:
            return None
        source = self.options.weights_source
        if source == "imagenet":
            return source
        if source == "directory":
            folder = Path(self.options.weights_dir)
            names = [f"{encoder}_imagenet_notop.weights.h5"]
            if encoder in DOWNLOADS:
                names.append(DOWNLOADS[encoder])
            for name in names:
                if (folder / name).exists():
                    return str(folder / name)
            raise FileNotFoundError(
                f"there is no file {' or '.join(names)} in {folder}; without --weights-dir Keras would download the weights"
            )
        path = self.output / "source" / f"{encoder}.weights.h5"
        if not path.exists():
            print(
                f"Training {encoder} on the source task (no ImageNet weights offline)", flush=True
            )
            accuracy = train_encoder(
                encoder, path, self.options.preprocessing, seed=self.options.seed
            )
            self.results["source_task"][encoder] = accuracy
            self._store()
        return str(path)

    def _draw(self, name):
        """The curves of a model whose result is stored; its checkpoints are no longer needed. One that was skipped may have some."""
        if self.results["models"][name]["status"] in FINISHED:
            shutil.rmtree(self.output / "models" / name, ignore_errors=True)
            shutil.rmtree(self.output / "features" / name, ignore_errors=True)
        if "validation" in self.results["models"][name]:
            figures.curves(name, self.output)

    def _keep(self, name, model, images):
        """The best model, without the optimizer's state, and what it predicts for figure 1."""
        with replacing(self.output / "models" / f"{name}.keras") as temporary:
            keras.Model(model.input, model.output, name=model.name).save(temporary)
        with replacing(self.output / "predictions" / f"{name}.npy") as temporary:
            np.save(temporary, np.asarray(model(images, training=False), "float32"))

    def _store(self):
        """Write results, tables and page as they are now."""
        write_json(self.output / "results.json", self.results)
        write_text(self.output / "table1.md", "# Table 1: scores\n\n" + report.table1(self.results))
        write_text(
            self.output / "table2.md", "# Table 2: pictures\n\n" + report.table2(self.results)
        )
        write_text(self.output / "report.md", report.page(self.results))
