"""Pairs by their hardness: what is measured, what is kept, and in which order training sees it."""

import math
from pathlib import Path

import pyarrow as pa
import pytest

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError, InputError, NothingLeft
from seva_ray.core.storage import read_table, write_table
from seva_ray.dpo.config import Train
from seva_ray.pairs.files import files_of, lineage
from seva_ray.pairs.hardness import Select, flip_step, limits_of_share
from seva_ray.sources import ToyWorld
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.select_pairs import select_pairs
from seva_ray.stages.training.reference import LOGPS_SCHEMA, open_logps
from seva_ray.stages.training.scheduled import scheduled
from seva_ray.vlm.models import Model
from tests.kept import read_pairs
from tests.made_up import ids_of, made_up_pairs, made_up_responses

MODEL = Model(name="model", directory="/models/model", fingerprint="0")
STEPS = (100, 300, 500, 900)
TRAIN = Train(global_batch_size=4, per_device_batch_size=4, num_repeats=2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"))


@pytest.fixture
def pairs(store: Store) -> Artifact:
    """Pairs at noise step 900, where all answers differ. Prompt number n flips at step n % 4, and n % 5 + 1 of its six
    words differ. The reference gives the chosen answer n nats more than the rejected one."""
    prompts = prepare(Prepare(shard_size=8), store, "toy", ToyWorld(num_images=3))
    clean = dict.fromkeys(ids_of(prompts), "a b c d e f")
    made = {"clean": made_up_responses(store, MODEL, prompts, "clean", clean)}
    for place, step in enumerate(STEPS):
        texts = {
            name: " ".join(["x"] * (1 + number % 5) + text.split()[1 + number % 5 :]) if number % 4 <= place else text
            for number, (name, text) in enumerate(clean.items())
        }
        made[str(step)] = made_up_responses(store, MODEL, prompts, f"diffusion-{step}", texts)
    pairs = made_up_pairs(store, prompts, made["clean"], made["900"])
    open_logps(Train(), store, MODEL, pairs, on_view=True).begin().finish({})  # is not of the clean image
    logps = open_logps(Train(), store, MODEL, pairs).begin()
    numbers = {name: float(number) for number, name in enumerate(clean)}
    for uri in files_of(pairs):
        rows = [
            {"prompt_id": name, "ref_logps": [-1.0, -1.0 - numbers[name]]}
            for name in read_table(uri)["prompt_id"].to_pylist()
        ]
        write_table(logps.path(uri.rpartition("/")[2]), pa.Table.from_pylist(rows, LOGPS_SCHEMA))
    logps.finish({})
    return pairs


def kept(store: Store, **config) -> list[int]:
    """The numbers of the pairs that are selected."""
    name = f"selected{len(store.names('pairs'))}"
    chosen = select_pairs(Select(name=name, **config), store, "model/toy/diffusion-900")
    ids = ids_of(store.find("prompts/toy"))
    return [ids.index(row["prompt_id"]) for row in read_pairs(chosen).to_pylist()]


def test_bands_keep_pairs_by_flip_step_words_and_reference_margin(store, pairs):
    every = range(pairs.counts["verdicts"]["kept"])
    assert len(every) >= 16
    assert kept(store, flip_step=(300, 500)) == [number for number in every if number % 4 in (1, 2)]
    assert kept(store, edit_distance=(0, 0.35)) == [number for number in every if number % 5 <= 1]
    assert kept(store, reference_margin=(3, 6)) == [3, 4, 5, 6]
    both = kept(store, reference_margin=(3, 9), flip_step=(100, 100))
    assert both == [number for number in every if number % 4 == 0 and 3 <= number <= 9]


def test_a_share_is_a_part_of_the_ranks_from_the_hardest(store, pairs):
    number = pairs.counts["verdicts"]["kept"]
    assert kept(store, share=(0, 0.25)) == list(range(round(number / 4)))
    assert kept(store, share=(0.75, 1)) == list(range(round(0.75 * number), number))
    assert limits_of_share((0.0, 0.5), [3.0, 1.0, 1.0, math.inf]) == (1.0, 1.0)
    with pytest.raises(NothingLeft, match="no pair is left of"):
        kept(store, share=(0.5, 0.5))


def test_every_pair_is_counted_and_its_measures_are_kept(store, pairs, capsys):
    capsys.readouterr()
    chosen = select_pairs(Select(name="a", flip_step=(300, 500)), store, "model/toy/diffusion-900")
    number, left = pairs.counts["verdicts"]["kept"], chosen.counts["verdicts"]["kept"]
    assert chosen.counts["left_out"] == {"flip_step": number - left}
    assert sum(chosen.counts["verdicts"].values()) == chosen.counts["num_prompts"]
    assert lineage(store, chosen) == lineage(store, pairs)
    measured, *said = capsys.readouterr().err.splitlines()
    assert measured.endswith(" shards measured")
    assert said == [
        "select a: flip_step from 100 to 900, median 300",
        f"select a: {left} of {number} pairs, {number - left} left out by flip_step",
    ]
    shards = [read_table(chosen.path("hardness", uri.rpartition("/")[2])) for uri in files_of(pairs)]
    rows = pa.concat_tables(shards).to_pylist()
    assert [row["flip_step"] for row in rows] == [float(STEPS[place % 4]) for place in range(number)]
    assert select_pairs(Select(name="a", flip_step=(300, 500)), store, "model/toy/diffusion-900") == chosen


@pytest.mark.parametrize(("order", "sign"), [("easy-first", -1), ("hard-first", 1)])
def test_training_sees_a_curriculum_in_its_order_in_each_pass(store, pairs, order, sign):
    chosen = select_pairs(Select(name=order, order=order), store, "model/toy/diffusion-900")
    number = pairs.counts["verdicts"]["kept"]
    numbers, size = scheduled(TRAIN, chosen).order.order.tolist(), TRAIN.global_batch_size
    steps = [set(numbers[start : start + size]) for start in range(0, len(numbers), size)]
    seen = list(range(number))[::sign] * 2
    assert steps == [set(seen[start : start + size]) for start in range(0, len(seen), size)]
    assert scheduled(TRAIN, pairs).order.order.tolist() != numbers


def test_an_answer_flips_at_the_first_step_that_differs_and_failed_answers_do_not_count():
    assert flip_step("a", {900: "b", 300: "c", 100: "a"}) == 300
    assert flip_step("a", {100: "a", 300: None}) == math.inf


def test_what_is_missing_is_one_line_that_says_what_makes_it(store, pairs):
    name = "model/toy/diffusion-900"
    with pytest.raises(InputError, match=r"the reference margin needs .*; those there are: bfloat16 \(a training"):
        select_pairs(Select(name="a", order="easy-first"), store, name, logps="float32")
    with pytest.raises(ConfigError, match="needs a name"):
        select_pairs(Select(order="easy-first"), store, name)
    with pytest.raises(ConfigError, match="needs a band"):
        select_pairs(Select(name="a"), store, name)
    with pytest.raises(InputError, match="pairs/model/toy/moco: not in"):
        select_pairs(Select(name="a", order="easy-first"), store, "model/toy/moco")


@pytest.mark.parametrize("bad", [{"flip_step": (500, 100)}, {"share": (0, 2)}, {"reference_margin": (0, math.nan)}])
def test_a_band_that_is_none_is_refused(bad):
    with pytest.raises(ConfigError, match=f"{next(iter(bad))} .*: must be two numbers"):
        Select(**bad)
