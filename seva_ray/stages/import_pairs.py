"""import pairs: preference data made elsewhere -> prompts, responses, and pairs that training takes like its own.

The chosen answers become `responses/<model>/<name>/clean`, the rejected ones `responses/<model>/<name>/imported`, with
the token ids of the model that is to be trained. `pair` compares them by its usual rules, so that every row has a
verdict.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from seva_ray.augmentations import CLEAN
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.outlines import local_outline
from seva_ray.core.ownership import owned
from seva_ray.core.records import RESPONSE_SCHEMA, Response, table
from seva_ray.core.storage import read_table, write_table
from seva_ray.core.system_texts import LLAVA_V1
from seva_ray.pairs.files import IMPORTED
from seva_ray.runtime import metrics
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.progress import say
from seva_ray.runtime.renewal import to_be_made
from seva_ray.sources.preferences import Preferences
from seva_ray.stages.generate import finish_responses, responses_name
from seva_ray.stages.pair import Pair, pair
from seva_ray.stages.prepare import Prepare, prepare, shards_of
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.image_options import options_of
from seva_ray.vlm.models import Model


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the model reads before an answer when it is trained on these pairs."""

    kind: ClassVar[str] = "ImportReading"

    system: str = LLAVA_V1
    """System text before the question (empty: none)."""
    max_image_pixels: int = 64_000_000
    """Largest number of pixels of an image, and of the square that it is padded to where it is padded."""
    image_options: str = ""
    """Settings of the model's own image processor, as JSON (empty: as its files say); see `generate.image_options`."""

    def __post_init__(self) -> None:
        options_of(self.image_options)


def import_pairs(
    reading: Reading, pairing: Pair, sharding: Prepare, store: Store, name: str, model: Model, source: Preferences
) -> Artifact:
    """The artifact `pairs/<model>/<name>/imported`. Raises: InputError if no row can be used; NothingLeft if no pair is
    left."""
    prompts = prepare(sharding, store, name, source)
    chosen, rejected = answered(reading, store, prompts, model, source)
    return pair(pairing, store, prompts, chosen, [rejected])


def answered(
    reading: Reading, store: Store, prompts: Artifact, model: Model, source: Preferences
) -> tuple[Artifact, Artifact]:
    """The chosen and the rejected answers as responses of the model."""
    views = (CLEAN, IMPORTED)

    def opened() -> list[Artifact]:
        recipe = {"model": model.fingerprint, "system": reading.system, "max_image_pixels": reading.max_image_pixels}
        if reading.image_options:
            recipe["image_options"] = options_of(reading.image_options)
        return [
            store.open(responses_name(model, prompts, view), config=recipe | {"imported": view}, inputs=[prompts])
            for view in views
        ]

    with owned(store.root, [artifact.name for artifact in opened() if not artifact.complete]):
        made = opened()  # another job may have made them meanwhile
        if all(artifact.complete for artifact in made):
            chosen, rejected = map(metrics.reused, made)
            return chosen, rejected
        chosen, rejected = (to_be_made(artifact).begin() for artifact in made)
        with waiting(f"import {prompts.name}: reading the answers"):
            write_answers(prompts, chosen, rejected, Encoder(local_outline(model.directory)).tokenizer, source)
        say(
            f"import {prompts.name.removeprefix('prompts/')}: {prompts.counts['num_prompts']:,} rows as of {model.name}"
        )
        return finish_responses(prompts, chosen), finish_responses(prompts, rejected)


def write_answers(prompts: Artifact, chosen: Artifact, rejected: Artifact, tokenizer: Any, source: Preferences) -> None:
    """Write both answers of every row, shard by shard, in the order of the prompts."""
    rows: Iterator[tuple[str, str, str | None]] = source.answers()
    for shard in shards_of(prompts):
        asked = read_table(prompts.path(shard), columns=["prompt_id", "error"]).to_pylist()
        answers = list(islice(rows, len(asked)))
        assert len(answers) == len(asked), "every row is one prompt"
        for artifact, place in ((chosen, 0), (rejected, 1)):
            found = [
                response(tokenizer, prompt["prompt_id"], str(row[place]), prompt["error"] or row[2])
                for prompt, row in zip(asked, answers, strict=True)
            ]
            write_table(artifact.path(shard), table(found, RESPONSE_SCHEMA))


def response(tokenizer: Any, prompt_id: str, text: str, error: str | None) -> Response:
    """An answer with its token ids, which end with the end-of-sequence token as those of an engine do."""
    if error is not None:
        return Response(prompt_id=prompt_id, error=error)
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return Response(prompt_id=prompt_id, text=text, token_ids=ids, finish_reason="stop")
