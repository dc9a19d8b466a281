"""The main job: makes an aligned policy, its scores and a report from prompts and a starting model.

    python jobs/full.py                                 the toy run, on a laptop
    python jobs/full.py toy-qwen                        the same with a Qwen2.5-VL as its base
    python jobs/full.py --views diffusion-800 --name strong
    python jobs/full.py --until pair                    no further than the pairs
    python jobs/full.py --rounds 3                      the policy answers anew, and is aligned again, twice
    python jobs/full.py llava-7b --model llava-1.5-7b-hf source:llava-json --source.path mix665k.json

Every stage keeps its result under `root`. The same command again reuses what is there; after a crash it goes on.
"""

import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Literal

from presets import (
    LLAVA_MIX,
    MODELS,
    TOY_GENERATE,
    TOY_TRAIN,
    USUAL,
    ModelJob,
    benchmarks_of,
    prompts_of,
    settings_of,
)
from seva_ray.augmentations import CLEAN, CONTROLS, parse_view
from seva_ray.benchmarks import Benchmarks
from seva_ray.benchmarks.judged import JudgedBenchmarks
from seva_ray.benchmarks.judged.endpoint import Judge
from seva_ray.core.artifacts import Artifact
from seva_ray.core.checks import check_least
from seva_ray.core.errors import ConfigError
from seva_ray.dpo.config import Train
from seva_ray.dpo.methods import METHODS, MethodName
from seva_ray.engines.config import Generate
from seva_ray.pairs.files import CONTRAST, GROUND_TRUTH
from seva_ray.runtime.cli import run
from seva_ray.runtime.cluster import cluster
from seva_ray.runtime.kept_engines import kept_engines
from seva_ray.runtime.progress import say
from seva_ray.sources import AnySource, ToyWorld
from seva_ray.stages.base_model import check_name, check_start, starting_model
from seva_ray.stages.consistency import Consistency, consistency_of
from seva_ray.stages.contrast import Contrast, contrast, with_scores
from seva_ray.stages.contrast_pairs import contrast_views, with_contrast
from seva_ray.stages.evaluate import evaluate, prepare_benchmarks
from seva_ray.stages.generate import generate
from seva_ray.stages.ground_truth import HasAnswers, ground_truth
from seva_ray.stages.judge import open_judge
from seva_ray.stages.pair import Pair, pair
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.regenerate import check_regeneration
from seva_ray.stages.report import report
from seva_ray.stages.report_inputs import Report
from seva_ray.stages.results import agreements, headlines
from seva_ray.stages.rounds import Rounds, pairs_of_round, prompts_of_rounds, round_name
from seva_ray.stages.rounds_report import report_rounds
from seva_ray.stages.score_files import Evaluate
from seva_ray.stages.training.group import check_training, check_training_memory
from seva_ray.stages.training.train import train
from seva_ray.vlm.models import model_of


@dataclass(frozen=True, kw_only=True)
class Full(ModelJob):
    """SeVa from prompts to report."""

    name: str
    """Names the policy, its scores and its report."""
    prompts: str = ""
    """Names the prompt set: runs that share it share its responses too. By default it is `toy` or `llava-mix` for the
    sources of the presets, and the job's own name for any other source."""
    model: str
    """The starting model: a directory in the transformers format; or `toy` or `toy-qwen`, which is trained first."""
    source: AnySource
    """Where prompts come from."""
    views: tuple[str, ...] = ("diffusion-500",)
    """The rejected view: an augmentation such as diffusion-500 or moco; jobs/gallery.py shows them all. Several stay
    together in one pair per prompt. If chosen is ground-truth, it may also be clean."""
    method: MethodName = "seva"
    """The method: seva, one that adds terms to its loss, or a control; docs/METHODS.md says what each of them does."""
    chosen: Literal["clean", "ground-truth", "contrast"] = "clean"
    """The chosen answers: the model's own on the clean image, as in SeVa; or those of the data set, which
    source:llava-json and source:toy-world read. With ground-truth it is DPO against ground truth, and with
    `--train.loss.name sft` too it is continual fine-tuning, which SeVa is compared with. With contrast they are the
    candidates that the image makes likelier than a noised view does; `--views clean` rejects the model's own."""
    contrast: Contrast = field(default_factory=Contrast)
    controls: tuple[str, ...] = ()
    """Measure how many pairs are unequal by the engine's rounding alone: answer the clean images once more
    (control-repeat), or in other batches (control-batch)."""
    prepare: Prepare = field(default_factory=Prepare)
    generate: Generate = field(default_factory=Generate)
    pair: Pair = field(default_factory=Pair)
    train: Train = field(default_factory=Train)
    benchmarks: Benchmarks = field(default_factory=Benchmarks)
    judged: JudgedBenchmarks = field(default_factory=JudgedBenchmarks)
    judge: Judge = field(default_factory=Judge)
    evaluate: Evaluate = field(default_factory=Evaluate)
    consistency: Consistency = field(default_factory=Consistency)
    report: Report = field(default_factory=Report)
    rounds: int = 1
    """Number of rounds. In each round the policy of the round before answers anew, and is aligned on the new pairs. A
    finished run can be continued with more rounds."""
    round: Rounds = field(default_factory=Rounds)
    until: Literal["prepare", "generate", "pair", "train", "evaluate"] | None = None
    """Stop after this stage, and say where its results lie. None: go on to the report."""

    def __post_init__(self) -> None:
        if not self.views:
            raise ConfigError("views: at least one rejected view is needed")
        if self.chosen == GROUND_TRUTH and not isinstance(self.source, HasAnswers):
            raise ConfigError(f"chosen ground-truth: {type(self.source).__name__} reads no answers of a data set")
        for view in self.views:
            if parse_view(view) is None and (self.chosen == CLEAN or view != CLEAN):
                raise ConfigError(f"view {view}: the rejected view must be an augmented one")
        settings_of(self.method, self.train, self.pair, self.views)
        if METHODS[self.method].short_answers != "view" and self.chosen != CLEAN:
            raise ConfigError(f"method {self.method}: chooses answers itself, so it needs chosen clean")
        for control in self.controls:
            if control not in CONTROLS:
                raise ConfigError(f"control {control}: must be one of {', '.join(CONTROLS)}")
        check_least(self, 1, "rounds")
        if self.until and self.rounds > 1:
            raise ConfigError(f"until {self.until}: a run of several rounds cannot stop there; use --rounds 1")

    def names(self) -> list[str]:
        """The name of each round's policy."""
        return [round_name(self.name, number) for number in range(1, self.rounds + 1)]

    def clean(self) -> tuple[str, ...]:
        """The clean view, if the run compares anything with it, and the other views that the chosen answers need."""
        if self.chosen == CONTRAST:
            return self.contrast.views
        clean = (CLEAN,) if self.chosen == CLEAN or self.controls else ()
        return tuple(dict.fromkeys((*clean, *contrast_views(self.method, self.contrast))))


TOY = Full(
    name="toy",
    model="toy",
    source=ToyWorld(),
    views=("diffusion-300",),
    controls=CONTROLS,
    # An engine uses one core for so small a model, and makes better use of it with more units at once.
    generate=replace(TOY_GENERATE, max_engines=2, units_per_engine=4),
    train=TOY_TRAIN,
    benchmarks=Benchmarks(toy_images=300),
)
PRESETS = {
    "toy": TOY,
    "toy-qwen": replace(TOY, name="toy-qwen", model="toy-qwen"),
    **{
        name: Full(
            name=name,
            model=of.model,
            source=LLAVA_MIX,
            views=(of.view,),
            generate=of.generate,
            pair=of.pair,
            train=of.train,
            benchmarks=of.benchmarks,
        )
        for name, of in MODELS.items()
    },
}


def with_method(config: Full) -> Full:
    """The same run, with the settings of its method in their places."""
    train, pair, views = settings_of(config.method, config.train, config.pair, config.views)
    generate = with_scores(config.generate, config.contrast)
    return replace(config, train=train, pair=pair, views=views, generate=generate)


def main(config: Full) -> None:
    began, config = time.time(), with_method(config)
    made: dict[str, list[Artifact]] = {}
    with closing(stages(config)) as finished:
        for stage, artifacts in finished:
            made.setdefault(stage, []).extend(artifacts)
            if stage == config.until:
                break
    every = [artifact for artifacts in made.values() for artifact in artifacts]
    if all(artifact.finished < began for artifact in every):
        say(f"reused: {counted(every)}")
    if config.until:
        print(f"{config.name}, {config.until}:", *(item.uri for item in made[config.until]), sep="\n  ", flush=True)
        return
    start, command = made["train"][0].counts["start"]["name"], " ".join(["python", *sys.argv])
    for name in config.names():
        page = report(config.report, config.store(), name, command=command, began=began)
        scores = [item for item in made["evaluate"] if item.name.endswith(f"/{name}")]
        again = consistency_of(config.store(), name) if config.consistency.num_answers else []
        print(f"{name}, aligned from {start}:", *headlines(scores), *agreements(again), page, sep="\n  ", flush=True)
    if config.rounds > 1:
        print(report_rounds(config.store(), config.names(), command), flush=True)


def stages(config: Full) -> Generator[tuple[str, list[Artifact]], None, None]:
    """Each stage's name, with the artifacts that it made. A stage starts when the caller asks for it. Whatever only the
    stages after `until` need is neither checked nor made."""
    trains, scores = config.until in (None, "train", "evaluate"), config.until in (None, "evaluate")
    store = config.store()
    if config.until != "prepare":
        check_start(store, config.model, config.generate.image_options)
    for name in config.names():
        check_name(name, config.model, config.toy)
    benchmarks = benchmarks_of(config.benchmarks, config.judged, config.generate) if scores else []
    judge = open_judge(config.judge, benchmarks)
    check_regeneration(config.generate, config.views)
    prompts = prepare(config.prepare, store, prompts_of(config.prompts, config.source, config.name), config.source)
    parts = prompts_of_rounds(config.round, store, prompts, config.rounds)
    tests = prepare_benchmarks(config.prepare, store, benchmarks)
    yield "prepare", [prompts]
    with cluster(), kept_engines():
        for name in config.names() if trains else ():
            check_training(config.train, store, name)
        first = start = starting_model(store, config.model, config.toy)
        for name in config.names() if trains else ():
            check_training_memory(config.train, store, name, start)
        settings, rounds = (config.evaluate, config.generate, store, benchmarks, tests), list[Artifact]()
        for name, part in zip(config.names(), parts, strict=True):
            # One pool of engines answers the training prompts in every view and the benchmarks. It is kept for the
            # policy's answers, if training has room beside it.
            controls = () if rounds else config.controls
            views = tuple(dict.fromkeys((*config.clean(), *config.views, *controls)))
            work = [*((part, view) for view in views), *((test, CLEAN) for test in tests)]
            answers = generate(config.generate, store, start, work)
            seen = dict(zip(views, answers, strict=False))
            if isinstance(config.source, HasAnswers) and config.chosen == GROUND_TRUTH:
                seen[GROUND_TRUTH] = ground_truth(config.generate, store, part, start, config.source)
                answers = [seen[GROUND_TRUTH], *answers]
            if config.chosen == CONTRAST:
                seen[CONTRAST] = contrast(config.contrast, config.generate, store, part, start, seen)
                answers = [seen[CONTRAST], *answers]
            yield "generate", answers
            if rounds:
                yield "evaluate", evaluate(*settings, [(first, start)], judge, config.consistency)
            compared = [pair(config.pair, store, part, seen[CLEAN], [seen[control]]) for control in controls]
            rejected = [seen[view] for view in config.views]
            pairs = pair(config.pair, store, part, seen[config.chosen], rejected)
            if config.chosen == CLEAN:
                about = (config.generate, store, part, start, pairs, seen, config.train.num_pairs)
                pairs = with_contrast(config.method, config.contrast, config.pair, *about)
            rounds.append(pairs)
            yield "pair", [rounds[-1], *compared]
            pairs = pairs_of_round(config.round, store, rounds)
            reference = first if config.round.reference == "first" and len(rounds) > 1 else None
            policy = train(config.train, store, name, start, pairs, reference)
            yield "train", [policy]
            start = model_of(policy)
        yield "evaluate", evaluate(*settings, [(first, start)], judge, config.consistency)


def counted(artifacts: Sequence[Artifact]) -> str:
    """`prompts, 6 responses, 3 pairs, policy, 2 scores`."""
    kinds = Counter(artifact.name.partition("/")[0] for artifact in artifacts)
    alone = {"policies": "policy", "scores": "score"}
    return ", ".join(f"{number} {kind}" if number > 1 else alone.get(kind, kind) for kind, number in kinds.items())


if __name__ == "__main__":
    run(main, PRESETS, "Run SeVa from prompts to report.", USUAL)
