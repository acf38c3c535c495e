"""Measures what `cache_features` and `fold_batch_norm` save in training on a frozen encoder, and writes a table.

    python benchmarks/feature_cache.py --data DIRECTORY             # of the unpacked Oxford-IIIT Pet archives; on an idle machine
    python benchmarks/feature_cache.py --data DIRECTORY --size 64 --images 8 --rounds 2 --encoders mobilenetv2 --json try.json

For each encoder the same pictures are trained on for an epoch in turn: the whole model, the model with a folded encoder, and the decoder on cached features in float32
and in float16. The medians of the rounds are taken, and the ratios to the whole model's time of the same round. "First pass" is the time in which the cache computes
the features, once; its graph was traced before, on the validation pictures. Weights are random: they don't change the cost. A measured encoder is kept in the JSON file and skipped by the next run.
"""

import argparse
import datetime
import json
import os
import statistics
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from report import ratios
from worker import seconds_of

import tl_unet
from tl_unet.data import oxford_pets
from tl_unet.machine import platform_name
from tl_unet.runs import replacing, write_json

ROOT = Path(__file__).resolve().parents[1]
ENCODERS = ("vgg16", "resnet50", "densenet121", "mobilenetv2", "efficientnetv2b0")
WAYS = ("whole", "folded", "float32", "float16")


def compiled(model):
    """The model, ready to train."""
    model.compile(keras.optimizers.Adam(1e-4), tl_unet.DiceLoss(), jit_compile=False)
    return model


def epoch(model, data):
    """The seconds of an epoch."""
    return seconds_of(lambda: model.fit(data, verbose=0))


def measure(encoder, filters, parts, size, rounds):
    """The row of an encoder: seconds of an epoch in each way, by round, and what the features take."""
    data = parts["train"].dataset
    if filters is not None:
        filters = filters[: tl_unet.get_encoder_spec(encoder).stride.bit_length() - 1]
    model = tl_unet.build_unet(
        encoder, freeze=False, weights=None, decoder_filters=filters, normalization="batch"
    )
    tl_unet.freeze_encoder(model)
    row = {"bytes": tl_unet.feature_bytes(model, (size, size)), "first_pass": {}, "seconds": {}}
    ways = {"whole": (compiled(model), data)}
    ways["folded"] = (compiled(tl_unet.fold_batch_norm(model, encoder_only=True)), data)
    for dtype in ("float32", "float16"):
        cache = tl_unet.FeatureCache(model, dtype=dtype)
        cache.add(parts["validation"].dataset, verbose=0)  # traces the graph
        row["first_pass"][dtype] = seconds_of(lambda cache=cache: cache.add(data, verbose=0))
        ways[dtype] = compiled(cache.decoder), cache.apply(data)
    for model_, data_ in ways.values():
        epoch(model_, data_)  # traces the graph
    for _ in range(rounds):
        for name, (model_, data_) in ways.items():
            row["seconds"].setdefault(name, []).append(epoch(model_, data_))
    return row


def table(document):
    """The measured rows as Markdown."""
    about = document["setting"]
    filters = about["filters"]
    decoder = f"decoder filters {', '.join(map(str, filters))}" if filters else "default decoder"
    lines = [
        f"*An epoch of {about['images']} real pets at {about['size']}x{about['size']}, batches of {about['batch']}, {decoder} with batch normalisation; times "
        f"relative to training the whole model with a frozen encoder, medians of {about['rounds']} rounds in turn (quartiles in brackets); the first pass once. {about['machine']}, "
        f"{about['date']}. Made by `benchmarks/feature_cache.py`.*",
        "",
        "| encoder | features, MB an image | whole model | encoder folded | cached | cached, float16 | first pass (paid after) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in document["rows"].items():
        whole = row["seconds"]["whole"]
        cells = [f"{1000 * statistics.median(whole) / about['images']:.0f} ms an image"]
        for way in WAYS[1:]:
            middle, low, high = ratios(row["seconds"][way], whole)
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        first = row["first_pass"]["float32"]
        saved = statistics.median(whole) - statistics.median(row["seconds"]["float32"])
        paid = f"{first / saved:.1f} epochs" if saved > 0 else "never"
        cells.append(f"{first / statistics.median(whole):.2f} ({paid})")
        size = row["bytes"] / 1e6
        lines.append(f"| `{name}` | {size:.1f} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        required=True,
        help="directory of the unpacked pet archives, or tfds (downloads them)",
    )
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    parser.add_argument(
        "--filters", type=int, nargs="+", help="of the decoder; default: build_unet's own"
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/feature-cache.json",
                        help="file of what is measured, beside which the table (.md) is written; default: %(default)s")  # fmt: skip
    arguments = parser.parse_args(argv)

    for name in arguments.encoders:
        tl_unet.get_encoder_spec(name)  # raises for a wrong name, before the first hour
    setting = {
        key: getattr(arguments, key) for key in ("filters", "size", "batch", "images", "rounds")
    }
    machine = f"{platform_name()}, TensorFlow {tf.__version__}, Keras {keras.__version__}"
    document = {"setting": {**setting, "machine": machine}, "rows": {}}
    if arguments.json.exists():
        kept = json.loads(arguments.json.read_text(encoding="utf-8"))
        if kept["setting"] != document["setting"] | {"date": kept["setting"]["date"]}:
            raise SystemExit(
                f"{arguments.json} holds rows of another setting, {kept['setting']}. Give the same options, another --json, or delete it."
            )
        document = kept
    parts = oxford_pets(
        arguments.data, size=arguments.size, batch_size=arguments.batch, limit=arguments.images
    )
    for name in arguments.encoders:
        if name not in document["rows"]:
            keras.utils.clear_session()
            keras.utils.set_random_seed(0)
            document["setting"]["date"] = datetime.date.today().isoformat()
            document["rows"][name] = measure(
                name,
                arguments.filters,
                parts,
                arguments.size,
                arguments.rounds,
            )
            write_json(arguments.json, document)
            print(f"{name}: measured", flush=True)
    path = arguments.json.with_suffix(".md")
    with replacing(path) as beside:
        beside.write_text(table(document), encoding="utf-8")
    print(f"{path}: written")


if __name__ == "__main__":
    main()
