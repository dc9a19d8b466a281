"""browse: every verdict of an artifact of pairs -> static pages to look through, which need no server.

    index.html          the page: filters, and 40 prompts at a time
    index.js            what the filters ask about each row, as numbers
    rows/000000.js      the texts of the rows of one shard, which the page loads if it shows one of them
    images/             small copies of the images, which the page loads one by one

Rows are read and written shard by shard. Browsers open the page from a disk too, where they refuse to fetch JSON: so
the data are scripts that hand it over.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.checks import check_least
from seva_ray.core.directories import write_directory
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.scratch import scratch_directory
from seva_ray.core.storage import exists, read_table
from seva_ray.core.submission import check_lasts
from seva_ray.pages.browse_page import render
from seva_ray.pairs.files import lineage, made_of
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.progress import Progress, say
from seva_ray.stages.margins import margins_there
from seva_ray.stages.prepare import shards_of
from seva_ray.vlm.images import load_image


@dataclass(frozen=True, kw_only=True)
class Browse:
    """How pairs are shown."""

    to: str
    """The target: a local directory or an fsspec URI that does not exist yet."""
    image_px: int = 336
    """Largest width and height of the images, in pixels. 0: no images."""

    def __post_init__(self) -> None:
        if not self.to:
            raise ConfigError("to '': must name a directory")
        check_least(self, 0, "image_px")


def browse(config: Browse, store: Store, name: str) -> str:
    """Write the pages and return where they are. Raises: InputError if the pairs are missing or the target exists."""
    check_lasts("to", config.to)
    pairs = store.find(name)
    prompts, _, _ = lineage(store, pairs)
    if others := made_of(pairs):
        raise InputError(
            f"{name}: has no verdicts of its own; browse the pairs that it was made of: {', '.join(others)}"
        )
    if exists(config.to):
        raise InputError(f"to {config.to}: already exists; choose another place or remove it")
    with waiting(f"browse {name}: writing the pages"), scratch_directory("seva-browse-") as scratch:
        directory = Path(scratch, "pages")
        (directory / "rows").mkdir(parents=True)
        (directory / "images").mkdir()
        before, after = logps_of(store, pairs), margins_there(store, pairs)
        index = write_rows(config, directory, prompts, pairs, columns_of(before, after))
        (directory / "index.js").write_text(f"hold({json.dumps(index)});\n", encoding="utf-8")
        html = render(name.removeprefix("pairs/"), sampled(pairs, after))
        (directory / "index.html").write_text(html, encoding="utf-8")
        write_directory(config.to, str(directory))
    say(f"browse {name}: {len(index['rows']):,} rows in {config.to}/index.html")
    if without := [policy for policy in policies_of(store, pairs) if policy not in after]:
        say(f"browse {name}: --policy {' '.join(without)} adds the margins after training")
    return config.to


def logps_of(store: Store, pairs: Artifact) -> dict[str, Artifact]:
    """The log-probabilities of these pairs that trainings left, by their own names: by the model that a training starts
    from, such as `bfloat16`, and by policies, such as `bfloat16-by-mine`."""
    prefix = f"logps/{pairs.name.removeprefix('pairs/')}"
    found = {name.removeprefix(f"{prefix}/"): name for name in store.names(prefix)}
    return {name: store.find(found[name]) for name in sorted(found) if "/" not in name}


def scorer(name: str) -> str:
    """Whose log-probabilities these are, in words: `bfloat16-by-mine` -> `mine (bfloat16)`."""
    computed, _, policy = name.partition("-by-")
    return f"{policy or 'the base model'} ({computed})"


def columns_of(before: Mapping[str, Artifact], after: Mapping[str, Artifact]) -> dict[str, tuple[Artifact, ...]]:
    """The margins to show, by what the page says of them: each by a model, or the second one minus the first."""
    found: dict[str, tuple[Artifact, ...]] = {f"by {scorer(name)}": (logps,) for name, logps in before.items()}
    for policy, logps in after.items():
        found[f"by {policy}, after training"] = (logps,)
        computed = logps.counts["computed"]
        if computed in before:
            found[f"gained by training {policy}"] = before[computed], logps
    return found


def sampled(pairs: Artifact, after: Mapping[str, Artifact]) -> list[str]:
    """For each policy, how many of the pairs it has scored, in words."""
    every = pairs.counts["verdicts"]["kept"]
    numbers = {policy: item.counts["num_pairs"] for policy, item in after.items()}
    return [
        f"The margins by {policy} are those of all {every:,} pairs."
        if number == every
        else f"The margins by {policy} are those of {number:,} of the {every:,} pairs, a sample in whole shards."
        for policy, number in numbers.items()
    ]


def policies_of(store: Store, pairs: Artifact) -> list[str]:
    """The names of the policies that were trained on these pairs."""
    every = store.names("policies")
    return [name.removeprefix("policies/") for name in every if pairs.name in store.record(name)["recipe"]["inputs"]]


def margins_of(pairs: Artifact, logps: Artifact, shard: str) -> dict[tuple[str, str], float]:
    """How much more likely the chosen answer is than the rejected one, in nats, by prompt_id and view."""
    if not exists(logps.path(shard)):
        return {}  # no pair of the shard was kept
    kept = read_table(pairs.path("pairs", shard), columns=["prompt_id", "rejected"]).to_pylist()
    scored = {row["prompt_id"]: row["ref_logps"] for row in read_table(logps.path(shard)).to_pylist()}
    return {
        (row["prompt_id"], rejected["view"]): round(values[0] - value, 2)
        for row in kept
        if (values := scored.get(row["prompt_id"]))
        for rejected, value in zip(row["rejected"], values[1:], strict=False)
    }


def margin_column(pairs: Artifact, items: Sequence[Artifact], shard: str) -> dict[tuple[str, str], float]:
    """The margins of the only one of the `items`, or those of the second minus those of the first."""
    of_items = [margins_of(pairs, item, shard) for item in items]
    if len(of_items) == 1:
        return of_items[0]
    first, second = of_items
    return {key: round(second[key] - first[key], 2) for key in first.keys() & second.keys()}


def write_rows(
    config: Browse, directory: Path, prompts: Artifact, pairs: Artifact, columns: Mapping[str, tuple[Artifact, ...]]
) -> dict[str, Any]:
    """Write the rows of every shard, and return what the filters ask: for each row the places of its verdict, source
    and view in their lists, the lengths of both answers in characters, and its margins, which may be null."""
    names: dict[str, dict[str, int]] = {"verdicts": {}, "sources": {}, "views": {}}
    numbers: list[list[float | None]] = []
    sizes: list[int] = []
    shards = shards_of(prompts)
    progress = Progress("browse", len(shards), "shards")
    root = prompts.counts["image_root"]
    image_of = lru_cache(maxsize=1)(partial(small, config, directory, root))  # often that of the row before
    for place, shard in enumerate(shards):
        texts = []
        margins = [margin_column(pairs, items, shard) for items in columns.values()]
        for row in rows_of(prompts, pairs, shard):
            codes = [
                names[kind].setdefault(row[kind[:-1]], len(names[kind])) for kind in ("verdicts", "sources", "views")
            ]
            key = row["prompt_id"], row["view"]
            numbers.append([*codes, len(row["chosen"]), len(row["rejected"]), *(of.get(key) for of in margins)])
            image = image_of(row["image_path"], row["image_bytes"])
            texts.append([row["prompt_id"], row["question"], row["chosen"], row["rejected"], image, row["error"] or ""])
        sizes.append(len(texts))
        progress.add(1)
        (directory / "rows" / f"{place:06d}.js").write_text(
            f"hold_rows({place}, {json.dumps(texts)});\n", encoding="utf-8"
        )
    return {"rows": numbers, "sizes": sizes, "margins": list(columns)} | {
        kind: list(known) for kind, known in names.items()
    }


def rows_of(prompts: Artifact, pairs: Artifact, shard: str) -> Iterator[dict[str, Any]]:
    """Each verdict of a shard, with the question and the image of its prompt."""
    columns = ["prompt_id", "question", "image_path", "image_bytes"]
    asked = {row["prompt_id"]: row for row in read_table(prompts.path(shard), columns=columns).to_pylist()}
    for row in read_table(pairs.path("verdicts", shard)).to_pylist():
        yield asked[row["prompt_id"]] | row


def small(config: Browse, directory: Path, image_root: str | None, image_path: str | None, data: bytes | None) -> str:
    """Write a small copy of a row's image, and return its path; empty if there is none. A row that failed may have
    an image that cannot be read, so that is no error here."""
    if not config.image_px:
        return ""
    try:
        image = load_image(path=image_path, data=data, image_root=image_root, padded=False)
    except InputError:
        return ""
    image.thumbnail((config.image_px, config.image_px))
    file = BytesIO()
    image.save(file, "JPEG", quality=85)
    digest = hashlib.sha256(file.getvalue()).hexdigest()[:24]
    path = f"images/{digest[:2]}/{digest}.jpg"
    (directory / path).parent.mkdir(exist_ok=True)
    (directory / path).write_bytes(file.getvalue())
    return path
