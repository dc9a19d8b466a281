"""Scores a model on benchmarks in augmented views, without training -> `scores/<benchmark>/<model>+<view>`.

python jobs/test_time.py --views diffusion-300 diffusion-500
python jobs/test_time.py llava-7b --benchmarks.pope path/to/pope --benchmarks.pope-images path/to/val2014
"""

from dataclasses import dataclass, field, replace

from presets import MODELS, ROWS, TOY_GENERATE, USUAL, ModelJob, benchmarks_of
from seva_ray.augmentations import parse_view
from seva_ray.benchmarks import Benchmarks
from seva_ray.benchmarks.judged import JudgedBenchmarks
from seva_ray.benchmarks.judged.endpoint import Judge
from seva_ray.core.errors import ConfigError
from seva_ray.engines.config import Generate
from seva_ray.runtime.cli import run
from seva_ray.runtime.cluster import cluster
from seva_ray.stages.base_model import check_start, starting_model
from seva_ray.stages.evaluate import prepare_benchmarks
from seva_ray.stages.judge import open_judge
from seva_ray.stages.prepare import Prepare
from seva_ray.stages.results import result_table
from seva_ray.stages.score_files import Evaluate
from seva_ray.stages.test_time import seen_in_views


@dataclass(frozen=True, kw_only=True)
class TestTime(ModelJob):
    """Scores of a model in augmented views, beside its scores on the clean images."""

    model: str
    """A model directory, a policy of this root (`policies/<name>`), or `toy`."""
    views: tuple[str, ...] = ("diffusion-500", "diffusion-800", "moco")
    """The views in which the model sees the images of the benchmarks."""
    benchmarks: Benchmarks = field(default_factory=Benchmarks)
    judged: JudgedBenchmarks = field(default_factory=JudgedBenchmarks)
    judge: Judge = field(default_factory=Judge)
    prepare: Prepare = field(default_factory=Prepare)
    generate: Generate = field(default_factory=Generate)
    evaluate: Evaluate = field(default_factory=Evaluate)

    def __post_init__(self) -> None:
        if not self.views or any(parse_view(view) is None for view in self.views):
            raise ConfigError(f"views {' '.join(self.views)}: at least one, and all augmented ones")


def main(config: TestTime) -> None:
    store = config.store()
    benchmarks = benchmarks_of(config.benchmarks, config.judged, config.generate)
    judge = open_judge(config.judge, benchmarks)
    if not benchmarks:
        raise ConfigError("benchmarks: none is chosen")
    check_start(store, config.model, config.generate.image_options)
    model = starting_model(store, config.model, config.toy)
    with cluster():
        tests = prepare_benchmarks(config.prepare, store, benchmarks)
        scores = seen_in_views(config.evaluate, config.generate, store, model, config.views, benchmarks, tests, judge)
    for item in scores:
        print(item.name, *result_table(item), sep="\n", flush=True)


TOY = TestTime(model="toy", views=("diffusion-300",), generate=TOY_GENERATE, benchmarks=Benchmarks(toy_images=300))
PRESETS = {
    "toy": TOY,
    "toy-qwen": replace(TOY, model="toy-qwen"),
    **{name: TestTime(model=of.model, generate=of.generate, benchmarks=of.benchmarks) for name, of in MODELS.items()},
}
PRESETS |= {name: replace(PRESETS[name], views=(of.view,)) for name, of in ROWS.items()}

if __name__ == "__main__":
    run(main, PRESETS, "Score a model on benchmarks in augmented views.", USUAL)
