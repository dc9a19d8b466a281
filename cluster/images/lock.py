"""Writes gpu.lock, cpu.lock, dev.lock, one for each cloud, and those of harness, clients and docs, from pyproject.toml.

    make lock

The CUDA set is resolved first, then the CPU set under its versions as constraints, then the dev tools under both, and
what each cloud adds under all of them.
lmms-eval is resolved under the CPU set, but for what its pins exclude: it has an environment of its own over the other.
Nothing is installed: pip reads metadata only (`pip install --dry-run --ignore-installed --report`), in five minutes.
The CPU set needs a pip that finds torch's CPU build, see README.md. For Linux x86_64 and Python 3.11, and made there.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

IMAGES = Path(__file__).parent
ROOT = IMAGES.parent.parent

# Named by vLLM's metadata, or its libraries', and used by nothing here. Where they are built for CUDA, torchaudio and
# torchcodec break `import transformers` beside a CPU torch; Triton is 690 MB that vLLM switches off without a GPU.
UNWANTED = {"gpu": {"torchaudio", "torchcodec"}, "cpu": {"torchaudio", "torchcodec", "triton"}}

# What Ray's cluster launcher calls on the head of a cluster in a cloud, and what reads that cloud's object store (s3fs
# is in every environment). Azure's versions are those of ray/autoscaler/azure/defaults.yaml: newer ones moved what Ray
# imports.
CLOUDS = {
    "aws": ["boto3"],
    "gcp": ["google-api-python-client", "google-auth-httplib2", "gcsfs"],
    "azure": [
        "azure-common==1.1.28",
        "azure-core==1.35.0",
        "azure-identity==1.23.1",
        "azure-mgmt-compute==35.0.0",
        "azure-mgmt-network==29.0.0",
        "azure-mgmt-resource==24.0.0",
        "msrestazure==0.6.4.post1",
        "adlfs",
    ],
}

HARNESS = ["lmms-eval==0.7.3", "decord==0.6.0"]  # which its class for LLaVA imports and its metadata does not name
# What LLaMA-Factory and ms-swift import beside our own set, and what their trainers need in an older version. Their
# metadata contradict each other, so nothing is resolved: these versions read exported pairs and train on them
# (tests/test_clients.py).
CLIENTS = {
    "accelerate": "1.11.0",
    "antlr4-python3-runtime": "4.9.3",
    "av": "18.1.0",
    "datasets": "4.8.4",
    "huggingface-hub": "0.36.0",
    "json-repair": "0.64.6",
    "llamafactory": "0.9.5",
    "modelscope": "1.40.2",
    "modelscope-hub": "0.5.1",
    "ms-swift": "4.6.0",
    "omegaconf": "2.4.0",
    "peft": "0.18.1",
    "simplejson": "4.3.0",
    "tokenizers": "0.22.2",
    "transformers": "4.57.6",
    "trl": "0.24.0",
}
EXCLUDED = {"protobuf"}  # by wandb 0.25.0, which lmms-eval pins

CLIENTS_LOCK = "What LLaMA-Factory and ms-swift add to either lock, to read exported pairs and to train on them."
HEADER = """\
# {what}
# Made by `make lock` (cluster/images/lock.py) for Python 3.11 on Linux x86_64; do not edit.
# Install with `pip install --no-deps --no-build-isolation -r`, setuptools first: cluster/images/install.sh does.
# --no-deps, because packages that vLLM's metadata names and nothing here imports are left out (lock.py says which):
# two of them break `import transformers` beside a CPU torch. No hashes, because the file behind torch==2.13.0 depends
# on the index: the CUDA build on the default one, 2.13.0+cpu on an index of CPU builds.
"""

# The CUDA set is that of the default index, whatever extra places with CPU builds pip is told of.
ENVIRONMENT = {
    "gpu": {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""},
    "cpu": {},
}


def project(extras: str) -> list[str]:
    """seva_ray[extras] and what builds it."""
    return [f"{ROOT}[{extras}]", *tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]]


def resolve(target: str, requirements: list[str], constraints: dict[str, str]) -> dict[str, str]:
    """The pinned version of everything that the requirements need on a `gpu` or `cpu` machine."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        pins.write("".join(f"{name}=={version}\n" for name, version in constraints.items()))
        pins.flush()
        command += ["--constraint", pins.name, *requirements]
        done = subprocess.run(command, env=os.environ | ENVIRONMENT[target], stdout=subprocess.PIPE, check=True)
    found = [entry["metadata"] for entry in json.loads(done.stdout)["install"]]
    versions = {re.sub(r"[-_.]+", "-", entry["name"]).lower(): entry["version"] for entry in found}
    skipped = UNWANTED[target] | {"seva-ray"}
    # The local part (`+cpu`) belongs to the index, not to the set.
    return {name: version.split("+")[0] for name, version in versions.items() if name not in skipped}


def write(name: str, what: str, versions: dict[str, str]) -> None:
    lines = [f"{package}=={version}\n" for package, version in sorted(versions.items())]
    (IMAGES / name).write_text(HEADER.format(what=what) + "\n" + "".join(lines))
    print(f"{name}: {len(lines)} packages")


def main() -> None:
    gpu = resolve("gpu", project("gpu"), {})
    cpu = resolve("cpu", project("cpu"), gpu)
    gpu_dev = resolve("gpu", project("gpu,dev"), gpu)
    cpu_dev = resolve("cpu", project("cpu,dev"), gpu_dev | cpu)
    dev = {name: version for name, version in gpu_dev.items() if name not in gpu}
    dev |= {name: version for name, version in cpu_dev.items() if name not in cpu}
    harness = resolve("cpu", HARNESS, {name: version for name, version in cpu.items() if name not in EXCLUDED})
    added = {name: version for name, version in harness.items() if not cpu.get(name) == gpu.get(name) == version}
    write("gpu.lock", "Everything a GPU node runs: torch and vLLM built for CUDA.", gpu)
    write("cpu.lock", "Everything a machine without a GPU runs: the same set, torch and vLLM built for the CPU.", cpu)
    write("dev.lock", "What tests and checks add to either lock.", dev)
    write_clouds(gpu, cpu, dev)
    setuptools = {"setuptools": cpu["setuptools"]}  # its environment has another, until this one is installed
    write("harness.lock", "What lmms-eval adds to either lock, or needs in another version.", added | setuptools)
    write("clients.lock", CLIENTS_LOCK, CLIENTS | setuptools)
    docs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["docs"]
    write("docs.lock", "What `make docs` needs, in an environment of its own.", resolve("cpu", docs, {}))


def write_clouds(gpu: dict[str, str], cpu: dict[str, str], dev: dict[str, str]) -> None:
    for cloud, requirements in CLOUDS.items():
        found = resolve("cpu", requirements, gpu | cpu | dev)
        added = {name: version for name, version in found.items() if name not in cpu or name not in gpu}
        write(f"{cloud}.lock", f"What a cluster in {cloud} adds to either lock: cluster/{cloud}.yaml.", added)


if __name__ == "__main__":
    main()
