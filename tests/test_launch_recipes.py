"""The recipes in `examples/launch/`: neither Slurm nor Kubernetes is here, so what can be checked without them is."""

import pathlib
import shlex
import subprocess
import sys

import pytest
import train_distributed
from multihost.processes import find_processes

LAUNCH = pathlib.Path(__file__).resolve().parents[1] / "examples" / "launch"


def options_of(words):
    """The recipe's options as the script understands them."""
    words = [word.replace("$address", "host:1") for word in words]
    return train_distributed.parser().parse_args(words)


def test_the_recipe_for_slurm_is_a_script_and_its_options_are_understood():
    path = LAUNCH / "slurm.sh"
    subprocess.run(["bash", "-n", path], check=True)
    joined = path.read_text().replace("\\\n", " ")
    (line,) = (line for line in joined.splitlines() if line.startswith("srun "))
    command = line.split(" || ")[0].split("examples/train_distributed.py")[1]
    arguments = options_of(shlex.split(command))
    assert arguments.resume
    assert arguments.address == "host:1"
    sbatch = dict(
        line.removeprefix("#SBATCH --").split("=")
        for line in joined.splitlines()
        if line.startswith("#SBATCH") and "=" in line
    )
    tasks = int(sbatch["nodes"]) * int(sbatch["ntasks-per-node"])
    assert sbatch["gpus-per-node"] == sbatch["ntasks-per-node"]
    assert arguments.batch_size % tasks == 0


def test_the_recipe_for_kubernetes_fits_together():
    yaml = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environ = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environ["KERAS_BACKEND"] == "jax"
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    arguments = options_of(container["args"])
    assert arguments.resume
    for index in range(spec["completions"]):
        found = find_processes(environ=environ | {"JOB_COMPLETION_INDEX": str(index)})
        assert found.index == index
        assert found.count == spec["completions"]
    host, port = found.address.split(":")
    assert host == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert int(port) == container["ports"][0]["containerPort"]
    assert arguments.batch_size % (spec["completions"]) == 0


def test_the_recipe_for_ray_explains_itself_without_ray():
    done = subprocess.run(
        [sys.executable, LAUNCH / "ray_train.py", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "behind --: the options of train_distributed.py" in " ".join(done.stdout.split())
