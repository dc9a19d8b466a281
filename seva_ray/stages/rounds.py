"""rounds: several rounds of one run. In each round the policy of the round before answers anew and is aligned again.

In: the prompts, and the pairs of the rounds so far. Out: the names of the rounds' policies, the prompts of each round
(`prompts/<name>-round<number>-of-<size>` if each round has fresh ones), and the union of the rounds' pairs
(`pairs/<model>/<prompts>/<view>+union`). Nothing else is kept: the stages find what is done by the artifacts' names.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.checks import check_least
from seva_ray.core.errors import InputError
from seva_ray.core.fingerprints import EXECUTION
from seva_ray.core.records import Prompt
from seva_ray.core.seeds import key_of
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import read_table, write_table
from seva_ray.pairs.files import files_of, lineage
from seva_ray.pairs.official import write_official
from seva_ray.pairs.verdicts import VERDICTS
from seva_ray.runtime.progress import say
from seva_ray.runtime.renewal import made_once
from seva_ray.stages.consistency import images_of
from seva_ray.stages.pair import PART_BYTES
from seva_ray.stages.prepare import Prepare, prepare, shards_of


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """What the rounds of a run have in common."""

    reference: Literal["start", "first"] = "start"
    """The reference of DPO: the model that the round starts from (start), or the first model of the run (first)."""
    pairs: Literal["last", "union"] = "last"
    """Train on the pairs of the round alone (last), or on those of all rounds so far (union)."""
    num_prompts: int | None = None
    """Number of fresh prompts of each round: no image is asked about in two rounds. None: every round asks all."""

    def __post_init__(self) -> None:
        check_least(self, 1, "num_prompts")


def round_name(name: str, number: int) -> str:
    """The name of the policy of a round. The first round has the name of the run, so that a run can be continued with
    more rounds."""
    return name if number == 1 else f"{name}-round{number}"


@dataclass(frozen=True, kw_only=True)
class PromptPart:
    """The prompts of one round, in the artifact's order. The parts of different rounds have no image in common, and do
    not depend on the number of rounds."""

    kind: ClassVar[str] = "RoundPart"

    whole: str
    """Fingerprint of the artifact with all prompts."""
    num_prompts: int
    """Number of prompts in each part, or a few more or fewer: all questions about an image are in one part."""
    number: int
    """The number of the round, from 1."""
    artifact: Artifact = field(metadata=EXECUTION)

    @property
    def image_root(self) -> str | None:
        return self.artifact.counts["image_root"]

    def prompts(self) -> Iterator[Prompt]:
        """The prompts of the part. Images are put in the order of a hash, and each part takes the next ones."""
        images = images_of(self.artifact)
        sizes = Counter(images.values())
        chosen, before = set(), 0
        for image_id in sorted(sizes, key=lambda image_id: key_of(0, "round", image_id)):
            if before // self.num_prompts == self.number - 1:
                chosen.add(image_id)
            before += sizes[image_id]
        for shard in shards_of(self.artifact):
            for row in read_table(self.artifact.path(shard)).to_pylist():
                if images[row["prompt_id"]] in chosen:
                    yield Prompt(**row)


def prompts_of_rounds(config: Rounds, store: Store, prompts: Artifact, num_rounds: int) -> list[Artifact]:
    """The prompts of each round. Raises: InputError if there are too few for fresh ones in every round."""
    if config.num_prompts is None:
        return [prompts] * num_rounds
    needed, there = num_rounds * config.num_prompts, prompts.counts["num_prompts"]
    if needed > there:
        raise InputError(
            f"round.num_prompts {config.num_prompts:,}: {num_rounds} rounds need {needed:,} prompts, and "
            f"{prompts.name} has {there:,}; use a smaller number or fewer rounds"
        )
    sharding = Prepare(shard_size=prompts.recipe["config"]["prepare"]["shard_size"])
    name = prompts.name.removeprefix("prompts/")
    return [
        prepare(sharding, store, f"{name}-round{number}-of-{config.num_prompts}", part)
        for number in range(1, num_rounds + 1)
        for part in [
            PromptPart(whole=prompts.fingerprint, num_prompts=config.num_prompts, number=number, artifact=prompts)
        ]
    ]


def pairs_of_round(config: Rounds, store: Store, rounds: Sequence[Artifact]) -> Artifact:
    """The pairs that a round trains on. `rounds` has the pairs of every round so far, the last one at the end."""
    if config.pairs == "last" or len(rounds) == 1:
        return rounds[-1]
    prompts, chosen, rejected = lineage(store, rounds[-1])

    def opened() -> Artifact:
        inputs = [prompts, chosen, *rejected, *rounds]
        return store.open(f"{rounds[-1].name}+union", config={"pairs": "union"}, inputs=inputs, later_is_new=True)

    return made_once(store, opened, lambda artifact: united(artifact, rounds))


def united(artifact: Artifact, rounds: Sequence[Artifact]) -> Artifact:
    """Write the pairs of all rounds, one round after the other, while no other job does it. A pair whose answers were
    the same in an earlier round is `surplus`."""
    artifact = artifact.begin()
    seen: set[bytes] = set()
    views, repeats = list(rounds[-1].counts["views"]), Counter[str]()
    num_prompts_again = number = 0
    for uri in [uri for pairs in rounds for uri in files_of(pairs)]:
        table = read_table(uri)
        keys = [(row, key_of_pair(row)) for row in table.select(["prompt_id", "chosen", "rejected"]).to_pylist()]
        for row, key in keys:
            if key in seen:
                num_prompts_again += 1
                repeats.update(views if len(views) == 1 else [item["view"] for item in row["rejected"]])
        kept = [place for place, (_, key) in enumerate(keys) if key not in seen]
        seen.update(key for _, key in keys)
        if kept:
            write_table(artifact.path("pairs", shard_name(number)), table.take(kept), PART_BYTES)
            number += 1
    write_official(artifact)
    verdicts = summed([pairs.counts["verdicts"] for pairs in rounds], num_prompts_again)
    of_views = {
        view: summed([pairs.counts["views"].get(view, {}) for pairs in rounds], repeats[view]) for view in views
    }
    say(
        f"pair {artifact.name.rpartition('/')[2]}: {verdicts['kept']:,} pairs of {len(rounds)} rounds; "
        f"{num_prompts_again:,} were the same in an earlier round"
    )
    num_prompts = sum(pairs.counts["num_prompts"] for pairs in rounds)
    return artifact.finish({"num_prompts": num_prompts, "verdicts": verdicts, "views": of_views})


def key_of_pair(row: dict[str, Any]) -> bytes:
    """A digest of a pair's prompt and answers."""
    texts = [row["prompt_id"], row["chosen"], *(text for item in row["rejected"] for text in item.values())]
    return hashlib.blake2b(repr(texts).encode(), digest_size=16).digest()


def summed(counts: Sequence[dict[str, int]], num_repeats: int) -> dict[str, int]:
    """The verdicts of several rounds together."""
    total = {verdict: sum(of_round.get(verdict, 0) for of_round in counts) for verdict in VERDICTS}
    return total | {"kept": total["kept"] - num_repeats, "surplus": total["surplus"] + num_repeats}
