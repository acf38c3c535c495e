"""Trains on the machines of a Ray cluster: Ray Train starts `train_distributed.py` once on each worker and all of them anew if one dies.

    python examples/launch/ray_train.py --workers 2 -- --epochs 4                                   # this machine, no GPU
    python examples/launch/ray_train.py --workers 8 --gpu -- --data /shared/oxford_pets --weights imagenet --output /shared/run

What stands behind `--` goes to `train_distributed.py`. Folders must be absolute and the same on all machines; the project must lie in the
same place on all. Needs `pip install "ray[train]" jax`. The workers are joined by `keras.distribution.initialize`, so Ray's own
`JaxConfig` is left empty: it would only join them on GPUs and TPUs, and twice is an error.
"""

import argparse
import pathlib
import socket
import sys

EXAMPLES = pathlib.Path(__file__).resolve().parents[1]


def train_worker(config):
    """What each worker runs: the options of the script, and its place among the others."""
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    sys.path[:0] = [str(EXAMPLES), str(EXAMPLES.parent)]
    import train_distributed  # here and not above: it imports Keras, on the backend of the worker

    context = ray.train.get_context()
    address = broadcast_from_rank_zero(free_address())
    place = ["--processes", context.get_world_size(), "--process-id", context.get_world_rank()]
    place += ["--address", address]
    arguments, processes = train_distributed.parse([*config["options"], *map(str, place)])
    scores = train_distributed.train(arguments, processes)
    ray.train.report(scores)


def free_address():
    """The address of this machine with a port that is free now."""
    import ray

    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


def main():
    """Starts the workers; the scores are in results.json in the folder of the run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2, help="how many processes (default: 2)")
    parser.add_argument("--gpu", action="store_true", help="give each worker a GPU")
    parser.add_argument(
        "--restarts", type=int, default=3, help="how often to start all of them again (default: 3)"
    )
    parser.add_argument(
        "--storage",
        type=pathlib.Path,
        default=pathlib.Path("runs/ray"),
        help="where Ray keeps its own records (default: runs/ray)",
    )
    parser.add_argument("options", nargs="*", help="behind --: the options of train_distributed.py")
    arguments = parser.parse_args()

    from ray.train import FailureConfig, RunConfig, ScalingConfig  # not needed for --help
    from ray.train.v2.jax import JaxConfig, JaxTrainer

    options = [*arguments.options, "--resume"]  # also the first time: what is not there is begun
    if not any(option.startswith("--output") for option in options):
        options += ["--output", str(pathlib.Path("runs/distributed").resolve())]
    trainer = JaxTrainer(
        train_worker,
        train_loop_config={"options": options},
        jax_config=JaxConfig(),
        scaling_config=ScalingConfig(num_workers=arguments.workers, use_gpu=arguments.gpu),
        run_config=RunConfig(
            name="tl-unet",
            storage_path=str(arguments.storage.resolve()),
            failure_config=FailureConfig(max_failures=arguments.restarts),
            worker_runtime_env={"env_vars": {"KERAS_BACKEND": "jax"}},
        ),
    )
    trainer.fit()


if __name__ == "__main__":
    main()
