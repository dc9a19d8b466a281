"""Which pairs training sees, and in which order."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from seva_ray.core import sorting
from seva_ray.core.fingerprints import identity
from seva_ray.core.records import PAIR_SCHEMA, table
from seva_ray.core.seeds import key_of
from seva_ray.dpo.config import Train
from seva_ray.dpo.grouping import together
from seva_ray.dpo.order import choose, lengths_of, num_response_tokens, schedule
from tests.test_dpo import pairs


def ids(rows: pa.Table) -> list[str]:
    return rows["prompt_id"].to_pylist()


def chosen_ids(everything: pa.Table, config: Train) -> list[str]:
    chosen = choose([ids(everything)], config)
    return [name for name, is_chosen in zip(ids(everything), chosen.tolist(), strict=True) if is_chosen]


def test_all_pairs_are_taken_once_unless_fewer_are_wanted():
    everything = pairs(50)
    for number in (None, 50, 1000):
        assert sorted(chosen_ids(everything, Train(num_pairs=number))) == sorted(ids(everything))


def test_a_smaller_set_is_part_of_a_larger_one():
    everything = pairs(200)
    sets = [set(chosen_ids(everything, Train(num_pairs=number))) for number in (1, 10, 100, 150)]
    assert [len(each) for each in sets] == [1, 10, 100, 150]
    assert sets[0] < sets[1] < sets[2] < sets[3]


def test_with_more_pairs_to_choose_from_no_pair_is_chosen_that_was_not_chosen_among_fewer():
    small, large = (set(chosen_ids(pairs(number), Train(num_pairs=50))) for number in (100, 200))
    assert large & set(ids(pairs(100))) < small


def test_which_pairs_are_chosen_does_not_depend_on_the_rows_order():
    everything = pairs(100)
    backwards = everything.take(pa.array(range(99, -1, -1)))
    assert chosen_ids(backwards, Train(num_pairs=40)) == chosen_ids(everything, Train(num_pairs=40))[::-1]


def test_another_seed_takes_other_pairs():
    one, other = (set(chosen_ids(pairs(200), Train(num_pairs=50, seed=seed))) for seed in (1, 2))
    assert one != other


# The order of training


def in_parts(everything: pa.Table, size: int) -> Iterator[tuple[list[str], np.ndarray]]:
    """The pairs in parts, as files of `size` pairs give them."""
    for start in range(0, len(everything), size):
        some = everything.slice(start, size)
        yield ids(some), lengths_of(some)


def steps(config: Train, everything: pa.Table, size: int = 7) -> list[list[dict]]:
    """Rows, each with its weight."""
    rows = everything.to_pylist()
    chosen = None if config.num_pairs is None else choose([ids(everything)], config)
    order = schedule(in_parts(everything, size), config, chosen)
    found = [rows[number] | {"weight": order.weight(place)} for place, number in enumerate(order.order.tolist())]
    assert len(found) == len(order) == order.num_steps * config.global_batch_size
    return [found[start : start + config.global_batch_size] for start in range(0, len(found), config.global_batch_size)]


def of_size(size: int, **values: object) -> Train:
    return Train(global_batch_size=size, num_workers=1, per_device_batch_size=1, **values)  # type: ignore[arg-type]


def test_every_pair_is_seen_as_often_as_wanted_and_the_last_step_is_filled_up_with_pairs_that_do_not_count():
    found = steps(of_size(8, num_repeats=2), pairs(15))
    assert [len(step) for step in found] == [8] * 4
    seen = [row["prompt_id"] for step in found for row in step if row["weight"]]
    assert sorted(seen) == sorted(2 * [f"p{index}" for index in range(15)])
    assert [sum(row["weight"] > 0 for row in step) for step in found] == [8, 8, 8, 6]
    assert all(sum(row["weight"] for row in step) == pytest.approx(8) for step in found), "each step's loss is a mean"


def test_the_order_is_shuffled_by_the_seed_and_does_not_depend_on_the_rows_order():
    def ids_of(config: Train, everything: pa.Table) -> list[set[str]]:
        return [{row["prompt_id"] for row in step} for step in steps(config, everything)]

    expected = ids_of(of_size(8), pairs(64))
    assert ids_of(of_size(8), pairs(64)) == expected
    assert ids_of(of_size(8, seed=7), pairs(64)) != expected
    assert ids_of(of_size(8), pairs(64).take(pa.array(range(63, -1, -1)))) == expected


def test_the_order_stays_what_it_was_so_that_a_run_begun_by_an_earlier_version_goes_on():
    found = steps(of_size(4, num_pairs=5), pairs(9))
    assert [[row["prompt_id"] for row in step] for step in found] == [
        ["p2", "p5", "p7", "p5"],
        ["p7", "p0", "p6", "p0"],
        ["p6", "p2", "p6", "p6"],
    ]


@pytest.mark.parametrize("spooled_bytes", [None, 200])  # 200: the keys lie in files
@pytest.mark.parametrize("num_pairs", [None, 61])
def test_the_order_is_that_of_the_pairs_keys(
    spooled_bytes: int | None, num_pairs: int | None, monkeypatch: pytest.MonkeyPatch
):
    if spooled_bytes:
        monkeypatch.setattr(sorting, "SPOOLED_BYTES", spooled_bytes)
    everything, config = pairs(1_000), of_size(16, num_pairs=num_pairs)
    chosen = sorted(ids(everything), key=lambda name: key_of(config.seed, "pairs", name))[:num_pairs]
    keys = {(key_of(config.seed, "order", again, name), name) for again in range(2) for name in chosen}
    expected = [name for _, name in sorted(keys)]
    found = [row["prompt_id"] for step in steps(config, everything, 100) for row in step if row["weight"]]
    for start in range(0, len(expected), 16):
        assert sorted(found[start : start + 16]) == sorted(expected[start : start + 16])


def test_a_pair_takes_four_bytes_for_each_time_that_it_is_seen():
    lengths = np.zeros(70_000, np.int64)
    order = schedule([([str(n) for n in range(70_000)], lengths)], of_size(8, num_repeats=1))
    assert order.order.nbytes == 4 * 70_000


def test_pairs_of_one_length_stand_together_within_a_step():
    rows = pairs(64).to_pylist()
    for index, row in enumerate(rows):
        row["chosen_token_ids"] = [1] * (index % 7)
    for step in steps(of_size(16, num_repeats=1), table(rows, PAIR_SCHEMA)):
        lengths = [
            len(row["question"]) + len(row["chosen_token_ids"]) + len(row["rejected"][0]["token_ids"]) for row in step
        ]
        assert lengths == sorted(lengths)


@pytest.mark.parametrize("long", [3, 17])
def test_a_length_of_more_than_two_bytes_is_sorted_by_all_of_them(long: int):
    names, lengths = [str(number) for number in range(24)], np.array([5, 70_000, 9, 65_536 + 4] * 6)
    lengths[:long] = 7  # the first long one comes in the first part, or in a later one
    parts = [(names[first : first + 4], lengths[first : first + 4]) for first in range(0, 24, 4)]
    order = schedule(parts, of_size(6, num_repeats=1)).order
    assert sorted(order.tolist()) == list(range(24))
    assert all((np.diff(lengths[order[start : start + 6]]) >= 0).all() for start in range(0, 24, 6))


def test_tokens_are_counted_in_every_chunk_of_pairs_whatever_their_number_of_rejected_responses():
    rows = pairs(60).to_pylist()
    for index, row in enumerate(rows):
        row["chosen_token_ids"] = [1] * (index % 5)
        row["rejected"] = [{"view": "v", "text": "", "token_ids": [1] * ((index + k) % 4)} for k in range(index % 3)]
    whole = table(rows, PAIR_SCHEMA)
    chunks = pa.concat_tables([whole.slice(0, 13), whole.slice(13, 0), whole.slice(13, 1), whole.slice(14)])
    counted = [len(row["chosen_token_ids"]) + sum(len(item["token_ids"]) for item in row["rejected"]) for row in rows]
    assert num_response_tokens(whole).tolist() == counted
    assert num_response_tokens(chunks).tolist() == counted
    assert num_response_tokens(whole.slice(7, 20)).tolist() == counted[7:27]
    assert num_response_tokens(whole.slice(0, 0)).tolist() == []


# Pairs of one image together


def test_images_are_shuffled_as_wholes_if_pairs_are_grouped_so_that_a_forward_pass_has_one_image():
    everything = pairs(64)  # two of each image, side by side
    config = Train(global_batch_size=16, num_workers=1, per_device_batch_size=2, num_repeats=3, group_by_image=True)
    names = everything["image_id"].to_pylist()

    def passes(config: Train, column: str) -> list[set[str]]:
        rows = [
            (everything[column].slice(start, 7).to_pylist(), lengths_of(everything.slice(start, 7)))
            for start in range(0, 64, 7)
        ]
        order = schedule(rows, config).order.tolist()
        assert sorted(order) == sorted(3 * [*range(64)])
        return [{names[number] for number in order[start : start + 2]} for start in range(0, len(order), 2)]

    grouped = passes(config, "image_id")
    assert all(len(images) == 1 for images in grouped)
    assert grouped != [{name} for name in names[::2]] * 3
    assert sum(len(images) == 1 for images in passes(replace(config, group_by_image=False), "prompt_id")) < 16
    assert identity(config) != identity(replace(config, group_by_image=False))
    assert identity(replace(config, group_by_image=False)) == identity(Train(global_batch_size=16, num_repeats=3))


@pytest.mark.parametrize(
    ("images", "size", "order"),
    [
        ("abab", 2, "aabb"),
        ("abcab", 2, "aabbc"),
        ("aaabbbc", 2, "aabbabc"),
        ("aaabbc", 3, "aaabbc"),
        ("abc", 4, "abc"),
        ("", 2, ""),
    ],
)
def test_pairs_of_one_image_fill_forward_passes_and_the_rest_of_them_share_some(images, size, order):
    places = together(images, size)
    assert sorted(places) == [*range(len(images))]
    assert "".join(images[place] for place in places) == order


def test_a_forward_pass_has_as_few_images_as_can_be():
    images = "abcdabcdab"  # three of a and b, two of c and d
    found = [images[place] for place in together(images, 5)]
    assert sorted(len(set(found[start : start + 5])) for start in (0, 5)) == [2, 2]
