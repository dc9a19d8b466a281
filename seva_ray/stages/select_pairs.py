"""select_pairs: pairs of some hardness, out of others -> the artifact `pairs/<model>/<prompts>/<view>+<name>`.

It measures each rejected answer (pairs/hardness.py), keeps those within the bands, and may write the order in which
training sees the pairs (column `rank`). It needs no model and no GPU: flip steps come from the noise steps that the
model has answered, and margins from the reference log-probabilities of an earlier training. `hardness/` has the
measures of every rejected answer, also of those that are not kept.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from seva_ray.augmentations.ladder import Ladder
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError, InputError, NothingLeft
from seva_ray.core.records import PAIR_SCHEMA
from seva_ray.core.storage import read_table, write_table
from seva_ray.pairs.files import RANK, files_of, lineage
from seva_ray.pairs.filters import edit_distance, words_of
from seva_ray.pairs.hardness import MEASURES, Select, flip_step, hardest, limits_of_share, quantiles, ranks_of
from seva_ray.pairs.official import write_official
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.progress import Progress, say
from seva_ray.runtime.renewal import made_once
from seva_ray.stages.ladder import answers_by_step
from seva_ray.stages.pair import PART_BYTES
from seva_ray.vlm.models import Model

LADDER_STEP = "diffusion-"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The artifacts that measures come from."""

    pairs: Artifact
    steps: Mapping[int, Artifact]
    """The responses at each noise step; empty if flip steps are not needed, or the pairs are those of a ladder."""
    logps: Artifact | None

    def artifacts(self) -> list[Artifact]:
        return [*self.steps.values(), *([self.logps] if self.logps else [])]


def select_pairs(config: Select, store: Store, name: str, logps: str = "") -> Artifact:
    """Select from `pairs/<name>`. `logps`: the name of the reference log-probabilities, if there are several.

    Raises: InputError if a measure cannot be made from what is there; NothingLeft if no pair is left.
    """
    if not config.name:
        raise ConfigError("select.name: a selection needs a name")
    if not config.used():
        raise ConfigError("select: needs a band (such as --select.flip-step 100 300), a share or an order")
    pairs = store.find(f"pairs/{name}")
    prompts, chosen, rejected = lineage(store, pairs)
    sources = sources_of(config, store, pairs, prompts, logps)
    inputs = {item.name: item for item in [prompts, chosen, *rejected, pairs, *sources.artifacts()]}

    def opened() -> Artifact:
        label = f"{pairs.name}+{config.name}"
        return store.open(label, config={"select": config}, inputs=list(inputs.values()), later_is_new=True)

    return made_once(store, opened, lambda artifact: selected(config, artifact, sources))


def sources_of(config: Select, store: Store, pairs: Artifact, prompts: Artifact, logps: str) -> Sources:
    steps: Mapping[int, Artifact] = {}
    model = pairs.name.split("/")[1]
    if "flip_step" in config.used() and not any(map(Ladder.of, pairs.counts["views"])):
        if "+union" in pairs.name:
            raise InputError(f"{pairs.name}: flip steps are those of one model; select from the pairs of one round")
        by_step = answers_by_step(store, Model(name=model, directory="", fingerprint=""), prompts)
        steps = {step: item for step, item in by_step.items() if step is not None}
    reference = None
    if "reference_margin" in config.used():
        prefix = f"logps/{pairs.name.removeprefix('pairs/')}"
        named = [item for item in store.names(prefix) if item.rpartition("/")[0] == prefix]
        # Log-probabilities whose names have "-on-" were measured on another view than the clean image.
        there = [item for item in named if "-on-" not in item.removeprefix(prefix)]
        if (f"{prefix}/{logps}" not in there) if logps else len(there) != 1:
            names = ", ".join(item.rpartition("/")[2] for item in there) or "none"
            raise InputError(
                f"{prefix}: the reference margin needs log-probabilities of these pairs, by the option logps if there "
                f"are several; those there are: {names} (a training on these pairs makes them)"
            )
        reference = store.find(f"{prefix}/{logps}" if logps else there[0])
    return Sources(pairs=pairs, steps=steps, logps=reference)


def selected(config: Select, artifact: Artifact, sources: Sources) -> Artifact:
    """Make the selection, while no other job makes it."""
    files, measured = files_of(sources.pairs), []
    progress = Progress("select", len(files), "shards measured")
    with waiting(f"select {config.name}: measuring the pairs"):
        for uri in files:
            measured.append(measures_of(sources, config, uri))
            progress.add(1)
    every = [item for rows in measured for items in rows for item in items]
    limits = None
    if config.share is not None:
        limits = limits_of_share(config.share, [hardest(items, config.by) for rows in measured for items in rows])
    artifact = artifact.begin()
    dropped: Counter[str] = Counter()
    num_kept = 0
    ranks = iter(ranks_of(config, [hardest(items, config.by) for rows in measured for items in rows]))
    for uri, rows in zip(files, measured, strict=True):
        num_kept += write_shard(config, artifact, uri, rows, list(islice(ranks, len(rows))), limits, dropped)
    for measure in config.used():
        low, middle, high = quantiles([item[measure] for item in every])
        say(f"select {config.name}: {measure} from {low:.4g} to {high:.4g}, median {middle:.4g}")
    num_pairs = sum(map(len, measured))
    reasons = "".join(f", {count:,} left out by {name}" for name, count in dropped.items())
    say(f"select {config.name}: {num_kept:,} of {num_pairs:,} pairs{reasons}")
    if not num_kept:
        artifact.discard()
        raise NothingLeft(f"{artifact.name}: no pair is left of {num_pairs:,}{reasons}; widen its bands")
    write_official(artifact)
    counts = dict(sources.pairs.counts["verdicts"])
    verdicts = counts | {"kept": num_kept, "surplus": counts.get("surplus", 0) + num_pairs - num_kept}
    views = dict.fromkeys(sources.pairs.counts["views"], verdicts)
    num_prompts = sources.pairs.counts["num_prompts"]
    return artifact.finish(
        {"num_prompts": num_prompts, "verdicts": verdicts, "views": views, "left_out": dict(dropped)}
    )


def write_shard(
    config: Select,
    artifact: Artifact,
    uri: str,
    measured: Sequence[Sequence[dict[str, Any]]],
    ranks: Sequence[float],
    limits: tuple[float, float] | None,
    dropped: Counter[str],
) -> int:
    """Write the pairs of one shard that are kept, and the measures of all of them. Returns the number of pairs.
    `ranks`: their places in the curriculum, if there is one."""
    shard, kept = uri.rpartition("/")[2], []
    for row, items, rank in zip(read_table(uri).to_pylist(), measured, ranks, strict=True):
        fates = [config.dropped_by(item) for item in items]
        if limits and not limits[0] <= hardest(items, config.by) <= limits[1]:
            fates = ["share"] * len(items)
        rest = [answer for answer, fate in zip(row["rejected"], fates, strict=True) if not fate]
        if not rest:
            dropped[fates[0] or ""] += 1
            continue
        kept.append(row | {"rejected": rest, RANK: rank})
    schema = PAIR_SCHEMA.append(pa.field(RANK, pa.float64())) if config.order != "hash" else PAIR_SCHEMA
    if kept:
        write_table(artifact.path("pairs", shard), pa.Table.from_pylist(kept, schema), PART_BYTES)
    flat = [{name: value for name, value in item.items() if value is not None} for items in measured for item in items]
    write_table(artifact.path("hardness", shard), pa.Table.from_pylist(flat))
    return len(kept)


def measures_of(sources: Sources, config: Select, uri: str) -> list[list[dict[str, Any]]]:
    """The measures of each pair's rejected answers, for one shard. A measure that is not needed is None."""
    shard, used = uri.rpartition("/")[2], config.used()
    rows = read_table(uri, columns=["prompt_id", "chosen", "rejected"]).to_pylist()
    texts = {step: texts_of(item, shard) for step, item in sources.steps.items()}
    logps = logps_of(sources.logps, shard)
    found = []
    for row in rows:
        name, chosen = row["prompt_id"], row["chosen"]
        flips = flip_step(chosen, {step: of_step[name] for step, of_step in texts.items()})
        of_chosen, *of_rejected = logps.get(name, [math.nan] * (1 + len(row["rejected"])))
        items = []
        for answer, logp in zip(row["rejected"], of_rejected, strict=True):
            own = float(answer["view"].removeprefix(LADDER_STEP)) if not texts and "flip_step" in used else flips
            distance = edit_distance(words_of(chosen), words_of(answer["text"]))
            values = {"edit_distance": distance, "flip_step": own, "reference_margin": of_chosen - logp}
            about = {"prompt_id": name, "view": answer["view"]}
            items.append(about | {measure: values[measure] if measure in used else None for measure in MEASURES})
        found.append(items)
    return found


def texts_of(responses: Artifact, shard: str) -> dict[str, str | None]:
    """The answers of a shard by prompt_id; None for those that failed."""
    rows = read_table(responses.path(shard), columns=["prompt_id", "text", "error"]).to_pylist()
    return {row["prompt_id"]: row["text"] if row["error"] is None else None for row in rows}


def logps_of(logps: Artifact | None, shard: str) -> dict[str, list[float]]:
    rows = read_table(logps.path(shard)).to_pylist() if logps else []
    return {row["prompt_id"]: row["ref_logps"] for row in rows}
