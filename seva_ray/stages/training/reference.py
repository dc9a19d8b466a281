"""reference: pairs + starting model -> the artifact `logps/<pairs>/<dtype>`: the log-probability of every response.

DPO compares the policy with these numbers at every step. They depend only on the pair and the starting model, so they
are computed once, by the workers that train, and every beta, loss and learning rate shares them.
A shard's file is committed in one step, so a restart computes only the missing shards.

A loss with image terms needs `logps/<pairs>/<dtype>-on-<view>` too: the same on another view of the image, for the
chosen and the first rejected response. All losses with that view share it.
"""

import gc
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import InputError
from seva_ray.core.imports import quick_imports
from seva_ray.core.node_cache import local_directory
from seva_ray.core.recipe_files import RECORD
from seva_ray.core.shards import in_order, shards_in
from seva_ray.core.storage import exists, read_bytes, read_table, write_table
from seva_ray.core.system_texts import SYSTEM_TEXTS
from seva_ray.core.verification import whole_shards
from seva_ray.dpo.config import Train, is_shown
from seva_ray.dpo.grouping import together
from seva_ray.dpo.order import num_response_tokens
from seva_ray.pairs.files import IMPORTED, lineage
from seva_ray.stages.training.reading import BATCHES_AHEAD
from seva_ray.stages.training.silence import ends_if_silent
from seva_ray.vlm.image_options import image_options_of
from seva_ray.vlm.models import Model

if TYPE_CHECKING:
    from seva_ray.vlm.encoding import Encoder
    from seva_ray.vlm.views import Viewer

REPORT_EVERY_S = 10.0
"""Least time between two lines of progress, in seconds."""

LOGPS_SCHEMA = pa.schema([("prompt_id", pa.string()), ("ref_logps", pa.list_(pa.float32()))])
"""One row per pair. `ref_logps` holds the natural log-probability of the chosen and then of each rejected response,
summed over the response's tokens."""


@dataclass(frozen=True, kw_only=True)
class ScoringInput:
    """What a model reads before a response that it scores: the same as when the response was generated, except for the
    system text if `train.system` names another one, and for `train.strip_questions`."""

    directory: str
    system: str
    image_root: str | None
    max_image_pixels: int
    image_options: str = ""
    seed: int = 0
    """Seed of the augmentations, by which a view has the same pixels as when it was answered."""
    strip_questions: bool = False

    def viewer(self, encoder: "Encoder") -> "Viewer":
        """What makes the model's input of a prompt and a view. `encoder`: that of this model and system text."""
        from seva_ray.vlm.views import Viewer

        return Viewer(
            encoder=encoder,
            image_root=self.image_root,
            max_pixels=self.max_image_pixels,
            seed=self.seed,
            strip_questions=self.strip_questions,
        )


def scoring_input_of(config: Train, model: Model, prompts: Artifact, chosen: Artifact) -> ScoringInput:
    recipe = chosen.recipe["config"]
    return ScoringInput(
        directory=model.directory,
        system=SYSTEM_TEXTS.get(config.system, recipe["system"]),
        image_root=prompts.counts["image_root"],
        max_image_pixels=recipe["max_image_pixels"],
        image_options=image_options_of(recipe),
        seed=recipe.get("seed", 0),
        strip_questions=config.strip_questions,
    )


def open_logps(
    config: Train, store: Store, model: Model, pairs: Artifact, named: bool = False, on_view: bool = False
) -> Artifact:
    """The log-probabilities by `model`. They are `named` after it if it is not the model that training starts from.
    `on_view`: those on the view of the loss's image terms."""
    computed = computed_as(config) + (f"-by-{model.name}" if named else "")
    recipe = {"model": model.fingerprint, "dtype": config.dtype, "shared_prefix": config.shared_prefix}
    recipe |= {"system": config.system} if config.system != "generation" else {}
    recipe |= {"strip_questions": True} if config.strip_questions else {}
    if on_view:
        view = config.loss.image_view or "rejected"
        computed, recipe = f"{computed}-on-{view}", recipe | {"image_view": view}
    return store.open(
        f"logps/{pairs.name.removeprefix('pairs/')}/{computed}",
        config=recipe,
        inputs=[pairs],
        later_is_new=True,
        made_from={model.name: model.contents},
    )


def computed_as(config: Train) -> str:
    """The settings of a training that change log-probabilities, as part of a name: `bfloat16`."""
    system = f"-{config.system}" if config.system != "generation" else ""
    stripped = "-stripped" if config.strip_questions else ""
    return config.dtype + ("" if config.shared_prefix else "-plain") + system + stripped


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """One artifact of log-probabilities, and what of it is to be made."""

    reading: ScoringInput
    pairs: Artifact
    logps: Artifact
    shards: Sequence[str]
    """Names of the shards that have pairs."""
    missing: Sequence[str]
    """Names of the shards to score."""
    image_view: str | None = None
    """The view of the image that is scored: None for the clean one, empty for that of the first rejected response."""

    @property
    def complete(self) -> bool:
        return exists(self.logps.path(RECORD))

    @property
    def is_packed(self) -> bool:
        """Whether image and question are computed once per pair instead of once per response. It is known once the
        artifact is complete."""
        return json.loads(read_bytes(self.logps.path(RECORD)))["counts"]["plain_because"] is None


def scoring(
    config: Train, store: Store, model: Model, pairs: Artifact, logps: Artifact, on_view: bool = False
) -> Scoring:
    """Raises: InputError if there are no pairs, as with a control view, or if image terms have no view to read."""
    if on_view and not config.loss.image_view:
        check_views(pairs)
    prompts, chosen, _ = lineage(store, pairs)
    if not pairs.counts["verdicts"]["kept"]:
        raise InputError(f"{pairs.name}: there is no pair in it to train on")
    shards = shards_in(pairs.path("pairs"))
    done = whole_shards(logps.uri, pairs.path("pairs")) if logps.begun and not logps.complete else set()
    missing = [] if logps.complete else [shard for shard in shards if shard not in done]
    return Scoring(
        reading=scoring_input_of(config, model, prompts, chosen),
        pairs=pairs,
        logps=logps,
        shards=shards,
        missing=missing,
        image_view=config.loss.image_view if on_view else None,
    )


def check_views(pairs: Artifact) -> None:
    """Raises: InputError if a rejected response is not about a view that training can show, which image terms need."""
    for view in pairs.counts["views"]:
        if view == IMPORTED or not is_shown(view):
            raise InputError(
                f"{pairs.name}: its rejected answers of {view} are not about an augmented view that training can "
                "show, and image terms compare with it; --train.loss.image-view names a view for them"
            )


@dataclass(frozen=True, kw_only=True)
class Group:
    """The workers that score together, as one of them sees them. By default it is alone."""

    rank: int = 0
    """The number of this worker, from 0."""
    size: int = 1
    """The number of workers."""
    device: str = "cpu"
    """The device of this worker's model, by torch's name."""
    agreed: Callable[[Any], Any] = lambda value: value
    """Waits until every worker has called it. Returns what worker 0 has called it with."""
    say: Callable[[str], None] = lambda line: None
    """Shows the user a line."""


def score(scoring: Scoring, config: Train, group: Group = Group()) -> None:
    """Commit the missing shards and complete the artifact. Each worker of the group calls this and scores its share. If
    the prefix cannot be shared, the artifact's count `plain_because` says why.

    Raises: InputError if the model cannot be scored exactly; then nothing is written.
    """
    if group.agreed(scoring.complete):
        return
    scoring = replace(scoring, logps=replace(scoring.logps, opened=time.monotonic()))  # of this machine
    done = whole_shards(scoring.logps.uri, scoring.pairs.path("pairs"))
    share = [shard for shard in scoring.missing[group.rank :: group.size] if shard not in done]
    scorer = Scorer(config, scoring, group.device) if share or group.rank == 0 else None
    reason = scorer.trial() if scorer and group.rank == 0 else None
    reason = group.agreed(reason)
    name, said_at = scoring.pairs.name.removeprefix("pairs/"), time.monotonic()
    if reason and group.rank == 0:
        group.say(f"reference {name}: image and question are computed once per response, not per pair: {reason}")
    for number, shard in enumerate(share, 1):
        assert scorer
        with ends_if_silent(config.silent_s, lambda: scorer.computed_at, group.say):
            scorer.commit(shard, packed=reason is None)
        if group.rank == 0 and (number == len(share) or time.monotonic() - said_at >= REPORT_EVERY_S):
            group.say(f"reference: {number:,}/{len(share):,} shards" + (" of worker 0" if group.size > 1 else ""))
            said_at = time.monotonic()
    group.agreed(None)
    if group.rank == 0:
        scoring.logps.finish({"num_pairs": scoring.pairs.counts["verdicts"]["kept"], "plain_because": reason})
    group.agreed(None)


class Scorer:
    """Scores pairs with their starting model, in the precision of training."""

    computed_at = 0.0
    """When a batch of pairs was last scored, on the monotonic clock, in s."""

    def __init__(self, config: Train, scoring: Scoring, device: str):
        with quick_imports():
            from seva_ray.dpo.policy import load_onto
            from seva_ray.vlm.encoding import Encoder

            reading, directory = scoring.reading, local_directory(scoring.reading.directory)
            gc.collect()  # frees another model first: two large models may not fit into memory
            self.model = load_onto(device, directory, config.dtype).eval()
            self.viewer = reading.viewer(Encoder(directory, reading.system, reading.image_options))
        self.config, self.scoring = config, scoring
        # As in training. Views of one image differ from pair to pair, so they share nothing.
        self.by_image = config.group_by_image and scoring.image_view is None

    def trial(self) -> str | None:
        """Why the prefix cannot be shared, from a trial on two pairs; None if it can. Raises: InputError if the model
        cannot be scored exactly."""
        from seva_ray.dpo.layout_check import check_layouts

        shard = (self.scoring.missing or self.scoring.shards)[0]
        rows = read_table(self.scoring.pairs.path("pairs", shard)).slice(0, 2).to_pylist()
        reason = check_layouts(self.model, self.viewer, rows, packed=self.config.shared_prefix)
        return reason if self.config.shared_prefix else "shared_prefix is off"

    def commit(self, shard: str, packed: bool) -> None:
        """Score the pairs of one shard and write its file."""
        table = read_table(self.scoring.pairs.path("pairs", shard))
        rows = table.to_pylist()
        order = sorted(range(len(rows)), key=num_response_tokens(table).tolist().__getitem__)
        found: dict[str, list[float]] = {}
        at_once = self.config.per_device_batch_size or 1
        if self.by_image:
            order = [order[place] for place in together([rows[place]["image_id"] for place in order], at_once)]
        parts = [[rows[place] for place in order[start : start + at_once]] for start in range(0, len(order), at_once)]
        with ThreadPoolExecutor(1) as maker:  # makes the next batch while the model computes this one
            batches = in_order((maker.submit(self.batch, part, packed) for part in parts), Future.result, BATCHES_AHEAD)
            for part, batch in zip(parts, batches, strict=True):
                for row, logps in zip(part, self.logps(batch), strict=True):
                    if not all(map(math.isfinite, logps)):
                        raise InputError(
                            f"{self.scoring.pairs.name}: prompt {row['prompt_id']}: the reference's log-probabilities "
                            f"are {logps}; nothing is trained"
                        )
                    found[row["prompt_id"]] = logps[: 1 + len(row["rejected"])]
                self.computed_at = time.monotonic()
        scored = [{"prompt_id": row["prompt_id"], "ref_logps": found[row["prompt_id"]]} for row in rows]
        self.scoring.logps.begin()
        write_table(self.scoring.logps.path(shard), pa.Table.from_pylist(scored, LOGPS_SCHEMA))

    def batch(self, rows: Sequence[dict[str, Any]], packed: bool) -> dict[str, Any]:
        """What the model reads of some pairs."""
        from seva_ray.dpo.batch import PreferenceCollator
        from seva_ray.dpo.on_view import SCORED, OnViewCollator, part_on_view

        view = self.scoring.image_view
        if view is None:
            return PreferenceCollator(viewer=self.viewer, packed=packed, by_image=self.by_image)(rows)
        collate = OnViewCollator(viewer=self.viewer, image_view=view, packed=packed, num_responses=SCORED)
        return part_on_view(collate(rows))

    def logps(self, batch: Mapping[str, Any]) -> list[list[float]]:
        """The log-probabilities of a batch's responses; a pair with fewer responses than others has more numbers."""
        import torch

        from seva_ray.dpo.logps import response_logps

        with torch.no_grad():
            made = response_logps(self.model, {name: values.to(self.model.device) for name, values in batch.items()})
        found: list[list[float]] = made.tolist()
        return found
