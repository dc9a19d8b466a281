"""Keyed randomness: the same stream everywhere, another for every other key."""

import itertools
import subprocess
import sys

import numpy as np

from seva_ray.core.seeds import generator, key_of, keys_of


def test_the_stream_follows_from_seed_and_keys_alone():
    first = generator(0, "prompt-1", "diffusion-500").standard_normal(100)
    generator(0, "prompt-2", "diffusion-500").standard_normal(7)
    assert np.array_equal(generator(0, "prompt-1", "diffusion-500").standard_normal(100), first)


def test_the_stream_is_pinned_so_that_results_do_not_change_with_a_version():
    assert key_of(0, "prompt-1", "diffusion-500") == 729096349587376645145131617482541490
    assert generator(0, "prompt-1", "diffusion-500").integers(0, 1000, 4).tolist() == [42, 700, 717, 547]
    noise = generator(0, "prompt-1", "diffusion-500").standard_normal(3, dtype=np.float32)
    assert noise.tolist() == [-0.10187309235334396, 1.7099125385284424, -1.0058577060699463]


def test_another_process_with_another_hash_seed_draws_the_same_numbers():
    code = "from seva_ray.core.seeds import generator; print(generator(3, 'a', 'b').standard_normal(3).tolist())"
    command = [sys.executable, "-c", code]
    drawn = [
        subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    ]
    assert drawn[0] == drawn[1] == f"{generator(3, 'a', 'b').standard_normal(3).tolist()}\n"


def test_every_key_its_order_and_its_borders_count():
    keys = [(), ("a",), ("b",), ("a", "b"), ("b", "a"), ("ab",), ("a", ""), ("", "a"), ("0",), ("a" * 1000,), ("ä",)]
    found = {key_of(seed, *each) for seed in (0, 1, 10, -1) for each in keys}
    assert len(found) == 4 * len(keys)


def test_streams_of_neighbours_are_independent():
    draws = [generator(0, f"prompt-{number}", "diffusion-500").standard_normal(4000) for number in range(5)]
    draws.append(generator(1, "prompt-0", "diffusion-500").standard_normal(4000))
    draws.append(generator(0, "prompt-0", "diffusion-501").standard_normal(4000))
    for one, other in itertools.combinations(draws, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(4000)


def test_a_key_is_the_same_as_a_number_or_as_its_text():
    """Row ids may be read as either; a seed of 1 and a key "1" are told apart by place."""
    assert key_of(0, 17) == key_of(0, "17")
    assert key_of(1, "0") != key_of(0, "1")


def test_the_keys_of_many_ids_are_those_of_each():
    ids = [f"prompt-{number}" for number in range(300)] + ["", "naïve"]
    keys = np.array([key_of(7, "order", 1, name).to_bytes(16, "big") for name in ids], "S16")
    assert keys_of(7, "order", 1, ids=ids).tobytes() == keys.tobytes()
    assert any(key[0] == 0 or key[-1] == 0 for key in keys.view(np.uint8).reshape(-1, 16)), "keys with zeros at an end"
