"""contrast: candidate answers -> the artifact `responses/<model>/<prompts>/contrast-<weight>-<view>`: the best of them.

The best answer y has the highest (1 + a) log p(y | image) - a log p(y | view of the image). A view without evidence
keeps what the model expects of any image, so this prefers what the image adds to it. These answers are the chosen ones,
and the model's own answers to the clean image the rejected ones.

Candidates are the model's answers in the clean view, in the noised view and in other views that are asked for. If its
own answer is one of some short answers, such as Yes and No, all of those are candidates too. A candidate's
log-probability is summed over its tokens, by the model that answered, so answers of one token are compared exactly as
contrastive decoding does. With `first_token`, short answers are compared by their first tokens instead, whose
log-probabilities the engines give with the answers to both images: then no model is loaded for them.
Source: VCD (arXiv 2311.16922), equation 3.
Deviates: VCD decodes token by token. Here whole answers are compared, without its plausibility constraint.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import pyarrow as pa

from seva_ray.augmentations import CLEAN, parse_view
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.checks import check_least, check_positive
from seva_ray.core.errors import ConfigError
from seva_ray.core.fingerprints import execution
from seva_ray.core.imports import quick_imports
from seva_ray.core.node_cache import local_directory
from seva_ray.core.outlines import local_outline
from seva_ray.core.records import FIRST_LOGPS, RESPONSE_SCHEMA, Response, table
from seva_ray.core.shards import read_each
from seva_ray.core.storage import read_schema, read_table, write_table
from seva_ray.engines.config import Generate
from seva_ray.pairs.files import CONTRAST
from seva_ray.runtime.progress import say
from seva_ray.runtime.renewal import made_once
from seva_ray.stages.generate import finish_responses, responses_name
from seva_ray.stages.import_pairs import response
from seva_ray.stages.prepare import shards_of
from seva_ray.stages.regenerate import is_regenerated
from seva_ray.stages.shard_pool import run_shards
from seva_ray.vlm.image_options import image_options_of
from seva_ray.vlm.model_shape import shape_of
from seva_ray.vlm.models import Model

SCORES = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("text", pa.string()),
        ("clean_logp", pa.float32()),  # natural log, summed over the tokens (first_token: of the first one alone)
        ("view_logp", pa.float32()),
        ("is_best", pa.bool_()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """How the chosen answers are found by contrast, if `chosen` is contrast."""

    kind: ClassVar[str] = "Contrast"

    view: str = "diffusion-800"
    """The view whose evidence is taken away. It must lose the evidence, and keep what the model expects."""
    weight: float = 1.0
    """The weight a of the view, above 0."""
    candidates: tuple[str, ...] = ()
    """Other views whose answers are candidates, such as sampled-0.7 and sampled-0.7=2."""
    short_answers: tuple[str, ...] = ("Yes", "No", "yes", "no", "Yes.", "No.", "yes.", "no.")
    """If the model's own answer is one of these, all that are written like it (case, full stop) are candidates."""
    only_short: bool = False
    """Look for other chosen answers only where the model's own is a short one. Then no other view needs answers."""
    first_token: bool = False
    """Compare short answers by their first tokens, whose log-probabilities the engines give with the answers to the
    image and to the view. So short answers need no pass of their own. The view's answers are then always needed."""
    balanced: bool = execution(True)
    """Keep as many pairs with each chosen answer as with every other, so that a model that says yes too often does not
    only learn to say no. Only the method contrast uses it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the log-probabilities."""
    batch_size: int = execution(8)
    """Number of prompts that are scored at once."""

    def __post_init__(self) -> None:
        check_positive(self, "weight")
        check_least(self, 1, "batch_size")
        if parse_view(self.view) is None or is_regenerated(self.view):
            raise ConfigError(f"contrast.view {self.view}: must be an augmented one, and no regenerated one")
        for view in self.candidates:
            parse_view(view)
        if self.first_token and len(self.short_answers) < 2:
            raise ConfigError("contrast.first_token: needs at least two contrast.short_answers to compare")

    @property
    def views(self) -> tuple[str, ...]:
        """The views whose answers are needed, the clean one first."""
        noised = (self.view,) if self.first_token or not self.only_short else ()
        return tuple(dict.fromkeys((CLEAN, *noised, *(() if self.only_short else self.candidates))))

    @property
    def label(self) -> str:
        kinds = ("-first" if self.first_token else "") + ("-short" if self.only_short else "")
        return f"{CONTRAST}-{self.weight:g}-{self.view}{kinds}"


def with_scores(generate: Generate, config: Contrast) -> Generate:
    """The same, but the engines give the log-probabilities that this contrast reads."""
    return replace(generate, scored_answers=config.short_answers) if config.first_token else generate


def contrast(
    config: Contrast, generate: Generate, store: Store, prompts: Artifact, model: Model, answers: Mapping[str, Artifact]
) -> Artifact:
    """The chosen answers, from the model's answers in each of `config.views`."""
    of_views = {view: answers[view] for view in config.views}

    def opened() -> Artifact:
        clean, same = answers[CLEAN].recipe["config"], ("model", "system", "max_image_pixels", "image_options")
        recipe = {name: clean[name] for name in same if name in clean}
        recipe |= {"contrast": config, "seed": generate.seed}
        name, inputs = responses_name(model, prompts, config.label), [prompts, *of_views.values()]
        return store.open(name, config=recipe, inputs=inputs, made_from={model.name: model.contents})

    def made(artifact: Artifact) -> Artifact:
        work = ContrastWork(
            config=config, model=model, prompts=prompts, answers=of_views, artifact=artifact, seed=generate.seed
        )
        run_shards(f"contrast {config.label}", generate, work, artifact, prompts.uri, shards_of(prompts))
        finished = finish_responses(prompts, artifact)
        changed = num_changed(prompts, finished, answers[CLEAN])
        say(f"contrast {config.label}: {changed:,} answers are not the model's own")
        return finished

    return made_once(store, opened, made)


def num_changed(prompts: Artifact, chosen: Artifact, clean: Artifact) -> int:
    """How many chosen answers differ from the clean ones."""
    shards = shards_of(prompts)
    texts = [[read_table(item.path(shard))["text"].to_pylist() for shard in shards] for item in (chosen, clean)]
    return sum(one != other for shard in zip(*texts, strict=True) for one, other in zip(*shard, strict=True))


@dataclass(frozen=True, kw_only=True)
class ContrastWork:
    """The answers of one model to one prompt set."""

    config: Contrast
    model: Model
    prompts: Artifact
    answers: Mapping[str, Artifact]
    """The responses by view, the clean ones first."""
    artifact: Artifact
    seed: int

    def num_weights(self) -> int:
        """Number of weights of the model that scores answers; 0 if the engines have scored all of them."""
        shards = shards_of(self.prompts)
        paths = [answers.path(shard) for answers in self.answers.values() for shard in shards]
        there = all(FIRST_LOGPS.name in schema.names for schema in read_each(read_schema, paths))
        if self.config.first_token and self.config.only_short and there:
            return 0
        return shape_of(local_outline(self.model.directory)).num_weights

    def load(self) -> "Contraster":
        return Contraster(self)


class Contraster:
    """Holds the model, scores candidates and commits shards."""

    computed_at = 0.0
    """When a batch of candidates was last scored, on the monotonic clock, in s."""

    def __init__(self, work: ContrastWork):
        with quick_imports():
            import torch

            from seva_ray.dpo.on_view import ImageViewer
            from seva_ray.vlm.encoding import Encoder

            self.work, self.directory = work, local_directory(work.model.directory)
            self.device = "cuda" if torch.cuda.is_available() else "cpu"
            recipe = next(iter(work.answers.values())).recipe["config"]
            encoder = Encoder(self.directory, recipe["system"], image_options_of(recipe))
            root, most = work.prompts.counts["image_root"], recipe["max_image_pixels"]
            self.viewer = ImageViewer(encoder=encoder, image_root=root, max_pixels=most, seed=work.seed)

    @cached_property
    def model(self) -> Any:
        """The model that scores answers. It is loaded when it is first needed."""
        from seva_ray.dpo.policy import load_model

        return load_model(self.directory, self.work.config.dtype).eval().to(self.device)

    def commit(self, shard: str) -> int:
        """Choose the answers of one shard and write its file. Returns the number of rows."""
        rows = read_table(self.work.prompts.path(shard)).to_pylist()
        answers = {
            view: {row["prompt_id"]: Response(**row) for row in read_table(artifact.path(shard)).to_pylist()}
            for view, artifact in self.work.answers.items()
        }
        asked = [(row, [of_view[row["prompt_id"]] for of_view in answers.values()]) for row in rows]
        found = [(row, self.candidates(given) if given[0].error is None else given[:1]) for row, given in asked]
        scores = {row["prompt_id"]: known for row, given in found if (known := self.given_by_engine(answers, given))}
        open_ones = [(row, given) for row, given in found if len(given) > 1 and row["prompt_id"] not in scores]
        for start in range(0, len(open_ones), self.work.config.batch_size):
            some = open_ones[start : start + self.work.config.batch_size]
            for (row, _), of_row in zip(some, self.scores(some), strict=True):
                scores[row["prompt_id"]] = of_row
            self.computed_at = time.monotonic()
        best = [(given, best_of(scores.get(row["prompt_id"], []), self.work.config.weight)) for row, given in found]
        self.work.artifact.begin()
        write_table(self.work.artifact.path("scores", shard), pa.Table.from_pylist(score_rows(best, scores), SCORES))
        write_table(self.work.artifact.path(shard), table((given[place] for given, place in best), RESPONSE_SCHEMA))
        return len(rows)

    def candidates(self, given: Sequence[Response]) -> list[Response]:
        """The different answers among those given, the clean one first, and the short answers if it is one of them."""
        own, short = given[0], self.work.config.short_answers
        if self.work.config.only_short and own.text not in short:
            return [own]
        made = [] if self.by_first_token(own) else [item for item in given if item.error is None and item.text]
        if own.text in short:
            alike = [text for text in short if manner(text) == manner(own.text)]
            made += [response(self.viewer.encoder.tokenizer, own.prompt_id, text, None) for text in alike]
        different: dict[str, Response] = {}
        for answer in (own, *made):
            different.setdefault(answer.text, answer)
        return list(different.values())

    def by_first_token(self, own: Response) -> bool:
        """Whether the candidates of this own answer are compared by their first tokens."""
        return self.work.config.first_token and own.text in self.work.config.short_answers

    def given_by_engine(
        self, answers: Mapping[str, Mapping[str, Response]], candidates: Sequence[Response]
    ) -> list[tuple[float, float]]:
        """The log-probabilities of the candidates' first tokens on the image and on its view, if the engines gave them.
        Answers that were made for another use do not have them, and then the model computes them."""
        own, sides = candidates[0], []
        if len(candidates) < 2 or not self.by_first_token(own):
            return []
        for view in (CLEAN, self.work.config.view):
            logps = {item["text"]: item["logp"] for item in answers[view][own.prompt_id].first_logps or ()}
            if any(answer.text not in logps for answer in candidates):
                return []
            sides.append([logps[answer.text] for answer in candidates])
        return list(zip(*sides, strict=True))

    def scores(self, some: Sequence[tuple[dict[str, Any], list[Response]]]) -> list[list[tuple[float, float]]]:
        """Returns, for each prompt, the log-probabilities of each candidate on the image and on its view."""
        import torch

        from seva_ray.dpo.batch import PreferenceCollator
        from seva_ray.dpo.logps import response_logps
        from seva_ray.dpo.on_view import SHOWN

        ends = [1 if self.by_first_token(given[0]) else None for _, given in some]
        read = [[item.token_ids[:end] for item in given] for (_, given), end in zip(some, ends, strict=True)]
        sides = []
        for view in (CLEAN, self.work.config.view):
            pairs = [
                row | {SHOWN: view, "chosen_token_ids": own, "rejected": [{"token_ids": ids} for ids in others]}
                for (row, _), (own, *others) in zip(some, read, strict=True)
            ]
            batch = PreferenceCollator(viewer=self.viewer, packed=False)(pairs)
            with torch.no_grad():
                sides.append(response_logps(self.model, {name: item.to(self.device) for name, item in batch.items()}))
        return [
            list(zip(clean.tolist(), view.tolist(), strict=True))[: len(given)]
            for clean, view, (_, given) in zip(*sides, some, strict=True)
        ]


def manner(text: str) -> tuple[bool, bool]:
    """Whether a short answer begins with a capital, and whether it ends with a full stop."""
    return text[:1].isupper(), text.endswith(".")


def best_of(scores: Sequence[tuple[float, float]], weight: float) -> int:
    """The place of the candidate with the highest contrast; the first one if there are no scores, or several are."""
    values = [(1 + weight) * clean - weight * view for clean, view in scores]
    return values.index(max(values)) if values else 0


def score_rows(
    best: Sequence[tuple[Sequence[Response], int]], scores: Mapping[str, Sequence[tuple[float, float]]]
) -> list[dict[str, Any]]:
    """The rows of SCORES: every candidate of every prompt that has several."""
    return [
        dict(zip(SCORES.names, (answer.prompt_id, answer.text, *logps, number == place), strict=True))
        for given, place in best
        for number, (answer, logps) in enumerate(zip(given, scores.get(given[0].prompt_id, []), strict=False))
    ]
