"""consistency: how far a model's sampled answers to one question agree, for the starting model and for the policy.

In: the prompts of a benchmark. The generate stage answers a seeded sample of them several times, in views
`sampled-<temperature>`. Out: the artifact `consistency/<part of the benchmark>/<policy>`: the share of the pairs of
answers that are equal, and the share of words that two answers have in common, with paired intervals over images. It
needs neither labels nor a judge.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean
from typing import ClassVar

import numpy as np
import pyarrow as pa

from seva_ray.augmentations import sampled
from seva_ray.benchmarks.base import Tally, percent, tally_of
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.checks import check_least, check_positive
from seva_ray.core.errors import ConfigError
from seva_ray.core.fingerprints import EXECUTION
from seva_ray.core.records import Prompt, Response
from seva_ray.core.seeds import key_of
from seva_ray.core.storage import read_table
from seva_ray.pairs.filters import word_overlap, words_of
from seva_ray.runtime.progress import say
from seva_ray.runtime.renewal import made_once
from seva_ray.scoring.intervals import paired_bootstrap
from seva_ray.scoring.right_wrong import agreement
from seva_ray.stages.generate import read_responses, responses_name
from seva_ray.stages.prepare import Prepare, own_system, prepare, shards_of
from seva_ray.stages.score_files import Contest, Evaluate, write_comparisons, write_tallies

COUNTS = ("asked", "equal", "shared")
PART = "-part-"


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """Which questions are asked again, and how often."""

    kind: ClassVar[str] = "Consistency"

    num_answers: int = 0
    """Number of sampled answers to each question, at least 2 (0: consistency is not measured)."""
    temperature: float = 0.7
    """Sampling temperature of these answers; above 0."""
    num_prompts: int = 200
    """Number of questions from each benchmark, or all if it has fewer. A smaller number takes a subset of a larger."""
    seed: int = 0
    """Seed of the choice of questions."""

    def __post_init__(self) -> None:
        if self.num_answers < 0 or self.num_answers == 1:
            raise ConfigError(f"num_answers {self.num_answers}: must be 0, or at least 2")
        check_positive(self, "temperature")
        check_least(self, 1, "num_prompts")

    def views(self) -> list[str]:
        return [sampled(self.temperature, draw) for draw in range(1, self.num_answers + 1)]


OFF = Consistency()


@dataclass(frozen=True, kw_only=True)
class PromptSample:
    """A sample of the prompts of an artifact, in the artifact's order."""

    kind: ClassVar[str] = "Part"

    whole: str
    """Fingerprint of the artifact with all prompts."""
    num_prompts: int
    seed: int
    artifact: Artifact = field(metadata=EXECUTION)
    system: str = ""
    """The name of the system text of all prompts, if they have their own."""

    @property
    def image_root(self) -> str | None:
        return self.artifact.counts["image_root"]

    def prompts(self) -> Iterator[Prompt]:
        """The prompts of the sample, which are chosen by a hash of prompt_id."""
        import pyarrow.compute as pc

        shards = [self.artifact.path(shard) for shard in shards_of(self.artifact)]
        ids = [key for shard in shards for key in read_table(shard, columns=["prompt_id"])["prompt_id"].to_pylist()]
        chosen = sorted(ids, key=lambda key: key_of(self.seed, "consistency", key))[: self.num_prompts]
        for shard in shards:
            rows = read_table(shard)
            for row in rows.filter(pc.is_in(rows["prompt_id"], pa.array(chosen, pa.string()))).to_pylist():
                yield Prompt(**row)


def part_of(config: Consistency, store: Store, prompts: Artifact) -> Artifact:
    """The questions that are asked again, as an artifact of prompts."""
    part = PromptSample(
        whole=prompts.fingerprint,
        num_prompts=config.num_prompts,
        seed=config.seed,
        artifact=prompts,
        system=own_system(prompts),
    )
    sharding = Prepare(shard_size=prompts.recipe["config"]["prepare"]["shard_size"])
    name = f"{prompts.name.removeprefix('prompts/')}{PART}{config.num_prompts}-{config.seed}"
    return prepare(sharding, store, name, part)


def compare_again(
    config: Consistency,
    evaluate: Evaluate,
    store: Store,
    part: Artifact,
    contest: Contest,
    answers: Mapping[str, Artifact],
) -> Artifact:
    """Compare how consistent both models are. `answers` holds responses by artifact name, including those of both
    models to `part` in every view.

    A question that either model failed to answer at least once is left out for both.
    """
    of_start, of_policy = ([answers[responses_name(model, part, view)] for view in config.views()] for model in contest)
    asked, policy = part.name.removeprefix("prompts/"), contest[1].name
    recipe, inputs = {"evaluate": evaluate, "consistency": config}, [*of_start, *of_policy]
    return made_once(
        store,
        lambda: store.open(f"consistency/{asked}/{policy}", config=recipe, inputs=inputs, later_is_new=True),
        lambda artifact: compared(config, evaluate, artifact, part, of_start, of_policy),
        counted=False,
    )


def compared(
    config: Consistency,
    evaluate: Evaluate,
    artifact: Artifact,
    part: Artifact,
    of_start: Sequence[Artifact],
    of_policy: Sequence[Artifact],
) -> Artifact:
    """Compare both models' answers to `part`, while no other job does it."""
    asked = part.name.removeprefix("prompts/")
    before, after, num_usable = tallies_of(part, of_start, of_policy)
    rows = paired_bootstrap(before, after, metrics, num_resamples=evaluate.num_resamples, seed=evaluate.seed)
    artifact = artifact.begin()
    write_tallies(artifact, before, after)
    write_comparisons(artifact, rows)
    say(f"evaluate {asked}: {config.num_answers} sampled answers to each of {num_usable:,} questions")
    num_prompts = part.counts["num_prompts"]
    counts = {"benchmark": asked.rpartition(PART)[0], "num_answers": config.num_answers}
    counts |= {"temperature": config.temperature, "num_prompts": num_prompts}
    return artifact.finish(counts | {"num_left_out": num_prompts - num_usable})


def tallies_of(part: Artifact, of_start: Sequence[Artifact], of_policy: Sequence[Artifact]) -> tuple[Tally, Tally, int]:
    """The tallies of both models over the questions that both have answered every time, and their number."""
    sides = [
        [{row.prompt_id: row for row in read_responses(part, of)} for of in side] for side in (of_start, of_policy)
    ]
    usable = {
        prompt_id: image_id
        for prompt_id, image_id in images_of(part).items()
        if all(is_usable(draw.get(prompt_id)) for side in sides for draw in side)
    }
    before, after = (
        tally_of(
            COUNTS,
            ((image, count([draw[prompt_id].text.strip() for draw in side])) for prompt_id, image in usable.items()),
        )
        for side in sides
    )
    return before, after, len(usable)


def consistency_of(store: Store, policy: str) -> list[Artifact]:
    return [store.find(name) for name in store.names("consistency") if name.endswith(f"/{policy}")]


def images_of(prompts: Artifact) -> dict[str, str]:
    """image_id by prompt_id, in the prompts' order."""
    tables = (read_table(prompts.path(shard), columns=["prompt_id", "image_id"]) for shard in shards_of(prompts))
    return {row["prompt_id"]: row["image_id"] for table in tables for row in table.to_pylist()}


def is_usable(response: Response | None) -> bool:
    return response is not None and response.error is None


def count(texts: Sequence[str]) -> dict[str, float]:
    """Returns the shares of one question, averaged over all pairs of its answers."""
    shared = fmean(word_overlap(one, other) for one, other in combinations(map(words_of, texts), 2))
    return {"asked": 1.0, "equal": agreement([texts]), "shared": shared}


def metrics(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "pairs of answers that are equal": percent(sums["equal"], sums["asked"]),
        "words in both of two answers (Jaccard)": percent(sums["shared"], sums["asked"]),
    }
