"""`examples/train_distributed.py` with a tiny model: not a test by itself, `test_train_distributed.py` starts it as a process.

It takes the options of the script, and finds it by PYTHONPATH. At the end of each epoch it writes the weights as this process has them. With DIE_AFTER=2 in the
environment it is killed, as the kernel would, behind the second epoch.
"""

import os
import signal

import numpy as np
import train_distributed
from tiny import shallow_unet


def main():
    arguments, processes = train_distributed.parse()
    models, wait = [], train_distributed.wait_for_all

    def build(arguments):
        models.append(shallow_unet())
        return models[0]

    def write_wait_and_die(name):
        if name.startswith("epoch"):
            number = int(name.split()[1])
            weights = {str(i): np.asarray(w.value) for i, w in enumerate(models[0].weights)}
            np.savez(arguments.output / f"weights-{processes.index}-{number}.npz", **weights)
        wait(name)
        if name == f"epoch {os.environ.get('DIE_AFTER')}":
            os.kill(os.getpid(), signal.SIGKILL)

    train_distributed.build_model = build
    train_distributed.wait_for_all = write_wait_and_die
    train_distributed.main()


if __name__ == "__main__":
    main()
