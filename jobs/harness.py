"""Scores two models on tasks of lmms-eval -> the artifacts `scores/lmms-eval-<task>/<policy>`.

make harness
python jobs/harness.py --start toy --policy policies/toy --tasks mme scienceqa_img --harness.download
"""

from dataclasses import dataclass, field

from presets import MODELS, USUAL, ModelJob
from seva_ray.core.errors import ConfigError
from seva_ray.runtime.cli import run
from seva_ray.runtime.cluster import cluster
from seva_ray.scoring.lmms_eval import Harness, check_installed
from seva_ray.stages.base_model import check_start, starting_model
from seva_ray.stages.harness import score_tasks
from seva_ray.stages.score_files import Evaluate


@dataclass(frozen=True, kw_only=True)
class HarnessJob(ModelJob):
    """Scores of a policy beside those of the model it started from, by lmms-eval."""

    start: str
    """A model directory, a policy of this root (`policies/<name>`), or `toy`."""
    policy: str
    """The model to compare with it: likewise."""
    tasks: tuple[str, ...] = ()
    """Names of lmms-eval's tasks, or of own ones."""
    harness: Harness = field(default_factory=Harness)
    evaluate: Evaluate = field(default_factory=Evaluate)


def main(config: HarnessJob) -> None:
    store = config.store()
    if not config.tasks:
        raise ConfigError("tasks: none is named")
    check_installed(config.harness)
    for model in (config.start, config.policy):
        check_start(store, model)
    start, policy = (starting_model(store, model, config.toy) for model in (config.start, config.policy))
    with cluster():
        score_tasks(config.harness, config.evaluate, store, config.tasks, start, policy)


PRESETS = {
    **{name: HarnessJob(start=name, policy=f"policies/{name}") for name in ("toy", "toy-qwen")},
    **{name: HarnessJob(start=of.model, policy=f"policies/{name}") for name, of in MODELS.items()},
}

if __name__ == "__main__":
    run(main, PRESETS, "Score a policy and the model that it started from, by lmms-eval.", USUAL)
