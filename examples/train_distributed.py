"""Trains a U-Net on several devices or several machines at once, with Keras' distribution API on JAX and its plain `fit`.

Each batch is shared out among all devices of all processes; the weights that come out are those of one device with the whole batch, up to
rounding. Start the same command once for each process, with its number; Slurm, Kubernetes and Open MPI tell it by themselves (see
docs/guides/distributed.md and examples/launch/). Of one process, nothing has to be told: it takes all devices that JAX sees.

    KERAS_BACKEND=jax python examples/train_distributed.py            # synthetic figures, all devices of this machine
    KERAS_BACKEND=jax python examples/train_distributed.py --data oxford_pets/ --weights imagenet
    KERAS_BACKEND=jax python examples/train_distributed.py --processes 2 --process-id 0 --address localhost:12345 &
    KERAS_BACKEND=jax python examples/train_distributed.py --processes 2 --process-id 1 --address localhost:12345

The folder --output, which all processes must see, gets run.json (the options), history.csv, a checkpoint of the last and of the best epoch,
model.keras (the epoch with the best validation IoU) and results.json (its scores on the test pictures). If a process dies the others end
with an error; start all of them again with --resume, which goes on behind the last epoch that was finished, or from the start if there is none.
"""

import argparse
import json
import math
import os
import pathlib
import sys
import time
import traceback

import keras
import numpy as np
from multihost.batches import Batches, figures, pets
from multihost.processes import (
    VARIABLES,
    alone,
    check_backend,
    connect,
    find_processes,
    fingerprint,
    gather,
    wait_for_all,
)

import tl_unet
from tl_unet.classes import IGNORE
from tl_unet.runs import RunFolder, replacing, write_json

# What another value of makes another run; the places of files may differ from machine to machine.
SETTINGS = (
    *("encoder", "size", "batch_size", "epochs", "freeze_epochs", "learning_rate", "limit"),
    "seed",
)


def build_model(arguments):
    """A U-Net with a slim decoder, since the decoder is what costs time."""
    return tl_unet.build_unet(
        arguments.encoder,
        freeze=False,
        weights=arguments.weights,
        decoder_filters=(128, 64, 48, 24, 16),
        normalization="group",
        upsampling="nearest",
    )


def compile_stage(model, arguments, frozen, steps):
    """Freezes or unfreezes the encoder, and compiles with Dice and cross-entropy; the rate falls along a cosine."""
    if frozen:
        tl_unet.freeze_encoder(model)
    else:  # random BatchNorm has to learn, faster than backbones do for ImageNet; ImageNet's stays
        random = arguments.weights is None
        momentum = 0.9 if random else None
        tl_unet.unfreeze_encoder(model, batch_norm=random, batch_norm_momentum=momentum)
    second = not frozen and arguments.freeze_epochs > 0
    rate = keras.optimizers.schedules.CosineDecay(
        arguments.learning_rate / (5 if second else 1), steps, alpha=0.02
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0),
        tl_unet.DiceLoss(ignore_index=IGNORE) + tl_unet.CrossentropyLoss(ignore_index=IGNORE),
        metrics=[tl_unet.IoU(ignore_index=IGNORE), tl_unet.DiceCoefficient(ignore_index=IGNORE)],
    )
    model.optimizer.build(model.trainable_variables)  # so that a checkpoint can fill it


def best_epoch(rows):
    """The epoch, counted from 1, with the highest validation IoU; the first of equals."""
    return 1 + max(range(len(rows)), key=lambda i: (rows[i]["val_iou"], -i))


def seed_dropout(model, seed, epoch):
    """Makes what dropout draws in an epoch follow from its number: weights files do not hold the state of the generators."""
    for i, variable in enumerate(model.non_trainable_variables):
        if "seed_generator" in variable.path:
            first = np.random.default_rng((seed, epoch, i)).integers(2**31)
            variable.assign(np.array([first, 0], variable.dtype))


class Record(keras.callbacks.Callback):
    """After each epoch process 0 writes the checkpoint and then the row of the history, and the others wait for it."""

    def __init__(self, run, rows, processes, batches):
        super().__init__()
        self.run, self.rows, self.processes, self.batches = run, rows, processes, batches

    def on_epoch_begin(self, epoch, logs=None):
        """Give pictures and dropout what is this epoch's, whether it comes after another or after a restart."""
        self.batches.epoch = epoch
        seed_dropout(self.model, self.batches.seed, epoch)
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Write the epoch; its row comes last, since without a row it was not."""
        logs = {name: float(value) for name, value in logs.items()}
        if not math.isfinite(logs["loss"]):
            raise ValueError(
                f"The loss is no longer a number in epoch {epoch + 1}: start anew with a smaller --learning-rate."
            )
        row = {"epoch": epoch + 1, **logs, "seconds": time.perf_counter() - self.begun}
        self.rows.append(row)
        if self.processes.index == 0:
            with alone(), replacing(self.run.checkpoint(epoch + 1), durable=True) as beside:
                self.model.save_weights(beside)
            self.run.write_history(self.rows)
            keep = {self.run.checkpoint(epoch + 1), self.run.checkpoint(best_epoch(self.rows))}
            for path in set(self.run.checkpoints.iterdir()) - keep:
                path.unlink()
            scores = " ".join(f"{name} {value:.4f}" for name, value in row.items() if name in logs)
            print(f"Epoch {epoch + 1}: {scores} ({row['seconds']:.1f} s)", flush=True)
        wait_for_all(f"epoch {epoch + 1}")


def fit(model, parts, rows, arguments, run, processes):
    """Trains the epochs that have no row yet: those with a frozen encoder, then those of everything."""
    frozen_epochs, epochs = arguments.freeze_epochs, arguments.epochs
    for frozen, begin, end in ((True, 0, frozen_epochs), (False, frozen_epochs, epochs)):
        done = len(rows)
        if begin == end or done > end:
            continue
        compile_stage(model, arguments, frozen, (end - begin) * len(parts["train"]))
        if done > begin:
            model.load_weights(run.checkpoint(done))
        if done < end:
            model.fit(
                parts["train"],
                validation_data=parts["validation"],
                initial_epoch=done,
                epochs=end,
                shuffle=False,  # the data set shuffles itself, alike in all processes
                verbose=arguments.verbose if processes.index == 0 else 0,
                callbacks=[Record(run, rows, processes, parts["train"])],
            )


def earlier_epochs(arguments, run, processes):
    """The history of the run that is to go on, `[]` for a new one; all processes must see the same, or none goes on."""
    settings = {name: getattr(arguments, name) for name in SETTINGS}
    settings["data"] = "pets" if arguments.data else "figures"
    settings["pretrained"] = arguments.weights is not None
    stored = run.read_settings() if run.settings.exists() else None
    ours = isinstance(stored, dict) and stored.keys() == settings.keys()
    rows = run.read_history() if ours else []
    strange = not ours and run.path.exists() and any(run.path.iterdir())
    views = gather([fingerprint(json.dumps(settings)), int(strange), len(rows)])
    if len(set(views[:, 0])) > 1:
        raise ValueError(
            "The processes were started with different options: all must get the same, but for --process-id and the places of files."
        )
    if len({tuple(view) for view in views}) > 1:
        raise ValueError(
            f"The processes see different contents of {run.path} ({views[:, 2].tolist()} finished epochs): "
            "--output must be a folder that all machines share."
        )
    if strange:
        raise ValueError(
            f"{run.path} is not empty and holds no run of this script: give another --output."
        )
    if not rows:  # new, or stopped before its first epoch, perhaps by a typing error
        if processes.index == 0:
            write_json(run.settings, settings)
        return []
    if not arguments.resume:
        raise ValueError(f"{run.path} holds a run: go on with --resume, or give another --output.")
    changed = [name for name in settings if stored[name] != settings[name]]
    if changed:
        raise ValueError(
            f"{run.path} was trained with other options: "
            + ", ".join(f"{name} {stored[name]}, not {settings[name]}" for name in changed)
            + ". Resume with the same, or give another --output."
        )
    return rows


def train(arguments, processes):
    """Trains this process' part and returns the scores of the best epoch on the test pictures.

    Args:
        arguments: as `parser` parses them.
        processes: a `Processes`.

    Returns:
        dict of floats, the same in all processes.

    Raises:
        ValueError: if the options do not fit each other, the devices or the folder.
    """
    keras.utils.set_random_seed(arguments.seed)
    distribution = connect(processes, arguments.batch_size)
    run = RunFolder(arguments.output)
    rows = earlier_epochs(arguments, run, processes)
    if arguments.data:
        pictures = pets(arguments.data, arguments.size, arguments.limit)
    else:
        pictures = figures(arguments.size, arguments.limit or 96, arguments.seed)
    parts = {
        part: Batches(
            some,
            arguments.batch_size,
            processes.index,
            processes.count,
            seed=arguments.seed if part == "train" else None,
        )
        for part, some in pictures.items()
    }
    print(
        f"Process {processes.index} of {processes.count}: {distribution.num_model_replicas} devices in all; "
        f"it reads {len(parts['train'].names)} of {len(pictures['train'].names)} training pictures; {len(rows)} epochs are done.",
        flush=True,
    )
    model = build_model(arguments)
    fit(model, parts, rows, arguments, run, processes)
    best = best_epoch(rows)
    plain = keras.Model(model.inputs, model.outputs, name=model.name)  # without the optimizer
    plain.load_weights(run.checkpoint(best))
    scores = model.evaluate(parts["test"], verbose=0, return_dict=True)
    scores = {name: float(value) for name, value in scores.items()}
    if processes.index == 0:
        with alone(), replacing(run.model) as beside:
            plain.save(beside)
        results = {
            "pictures": {part: len(some.names) for part, some in pictures.items()},
            "processes": processes.count,
            "devices": distribution.num_model_replicas,
            "best_epoch": best,
            "seconds": sum(row["seconds"] for row in rows),
            "test": scores,
        }
        write_json(run.path / "results.json", results)
        print("Test:", " ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    wait_for_all("the end")
    return scores


def parser():
    """The command line."""
    options = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Where an option is not given, the first of these variables that is set counts:\n"
        + "\n".join(f"  {option:14}{', '.join(names)}" for option, names in VARIABLES.items()),
    )
    add = options.add_argument
    add(
        "--data",
        help="the directory of the unpacked archives of Oxford-IIIT Pet (default: none, synthetic figures)",
    )
    add(
        "--weights",
        help="imagenet (Keras downloads), or a file of the encoder without its top (default: random)",
    )
    add("--encoder", default="mobilenetv2", help="default: mobilenetv2")
    add("--size", type=int, default=128, help="side of the pictures (default: 128)")
    add(
        "--batch-size",
        type=int,
        default=16,
        help="pictures in a batch of all processes together (default: 16)",
    )
    add("--epochs", type=int, default=10, help="epochs in all (default: 10)")
    add(
        "--freeze-epochs",
        type=int,
        help="epochs with a frozen encoder (default: 2 with --weights, else 0)",
    )
    add(
        "--learning-rate",
        type=float,
        default=1e-3,
        help="at the start; a fifth of it once the encoder is unfrozen (default: 0.001)",
    )
    add(
        "--limit",
        type=int,
        help="at most so many training pictures, and a third as many of the others (default: all pets, 96 figures)",
    )
    add("--seed", type=int, default=0, help="of weights, order and mirroring (default: 0)")
    add(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs/distributed"),
        help="default: runs/distributed",
    )
    add("--resume", action="store_true", help="go on with the run in --output, if there is one")
    add("--verbose", type=int, default=0, help="0 (default): a line an epoch; 1: a bar, too")
    add("--processes", type=int, help="how many processes train together (default: 1)")
    add("--process-id", type=int, help="which of them this is, from 0")
    add("--address", help="host:port of process 0; the port must be free there")
    return options


def parse(argv=None):
    """Parses and checks a command line.

    Args:
        argv: list of str. Defaults to `None`: the process' own.

    Returns:
        The arguments and the `Processes`.
    """
    options = parser()
    arguments = options.parse_args(argv)
    if arguments.freeze_epochs is None:
        arguments.freeze_epochs = min(2, arguments.epochs - 1) if arguments.weights else 0
    for name, low in {"size": 16, "epochs": 1, "limit": 3, "seed": 0}.items():
        value = getattr(arguments, name)
        if value is not None and value < low:
            options.error(f"--{name} is {value}, but must be at least {low}")
    if not 0 <= arguments.freeze_epochs <= arguments.epochs:
        options.error(f"--freeze-epochs must be between 0 and --epochs ({arguments.epochs})")
    if arguments.freeze_epochs and not arguments.weights:
        options.error("--freeze-epochs freezes an encoder that was never trained: give --weights")
    try:
        check_backend()
        return arguments, find_processes(
            arguments.processes, arguments.process_id, arguments.address
        )
    except ValueError as error:
        options.error(str(error))


def main():
    """Trains; a process that fails ends at once, so that the others notice."""
    arguments, processes = parse()
    try:
        train(arguments, processes)
    except BaseException as error:
        if isinstance(error, ValueError | FileNotFoundError):
            print(f"train_distributed.py: error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        if processes.count > 1:
            print(
                "The other processes end, too. When the cause is mended, start all of them again with --resume.",
                file=sys.stderr,
            )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # leaving politely would wait minutes for processes that wait for this one


if __name__ == "__main__":
    main()
