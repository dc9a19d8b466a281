"""prepare alone: a source's prompts -> the artifact `prompts/<name>`.

python jobs/prepare.py --name photos source:folder --source.path photos
"""

from dataclasses import dataclass, field

from seva_ray.core.artifacts import Store
from seva_ray.runtime.cli import run
from seva_ray.sources import Folder, LlavaJson, Table, ToyWorld
from seva_ray.stages.prepare import Prepare, prepare


@dataclass(frozen=True, kw_only=True)
class PrepareJob:
    """Prompts from a source."""

    name: str
    """Names the prompt set."""
    root: str = "runs"
    """Where artifacts are kept: a directory, or an fsspec URI such as s3://bucket/runs."""
    source: ToyWorld | LlavaJson | Table | Folder
    """Where prompts come from."""
    prepare: Prepare = field(default_factory=Prepare)


def main(config: PrepareJob) -> None:
    store = Store(config.root)
    store.check_writable()
    prepare(config.prepare, store, config.name, config.source)


if __name__ == "__main__":
    run(main, {"toy": PrepareJob(name="toy", source=ToyWorld())}, "Prompts from a source.")
