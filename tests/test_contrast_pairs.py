"""Pairs whose short answers were chosen by contrast, beside SeVa's pairs of all other questions; and their control."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import full
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError, NothingLeft
from seva_ray.pairs.files import lineage
from seva_ray.sources import ToyWorld
from seva_ray.stages.contrast_pairs import ContrastPairs, contrast_pairs, sense
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.models import Model
from tests.kept import read_pairs
from tests.made_up import ids_of, made_up_pairs, made_up_responses

MODEL = Model(name="toy", directory="/models/toy", fingerprint="toy")
CONFIG = ContrastPairs(name="contrast", short_answers=("Yes", "yes", "no."), num_pairs=None)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Store, Artifact, Artifact, dict[str, str]]:
    """SeVa's pairs and those of the contrast. Own answers are by turns yes, no, a count, and a sentence; in the noised
    view all of them change. The contrast changes the own answer of each second prompt with a short one, no for yes in
    twice as many as yes for no."""
    store = Store(str(tmp_path))
    prompts = prepare(Prepare(shard_size=16), store, "toy", ToyWorld(num_images=20))
    names = ids_of(prompts)
    own = {name: ("yes", "no", "yes", "a dog", "two", "yes")[number % 6] for number, name in enumerate(names)}
    best = {name: {"yes": "no", "no": "yes"}.get(own[name], own[name]) for name in names[::2]}
    best |= dict.fromkeys(names[1::12], "yes")
    clean, noised, chosen = (
        made_up_responses(store, MODEL, prompts, view, texts)
        for view, texts in (
            ("clean", own),
            ("moco", {name: f"{text} ?" for name, text in own.items()}),
            ("blank", own | best),  # stands for the chosen answers: any view has the same files
        )
    )
    usual, contrasted = made_up_pairs(store, prompts, clean, noised), made_up_pairs(store, prompts, chosen, clean)
    return store, usual, contrasted, own


def short(pairs: Artifact) -> list[dict]:
    return [row for row in read_pairs(pairs).to_pylist() if sense(row["chosen"]) in ("yes", "no")]


def test_short_answers_are_those_of_the_contrast_as_many_of_each_and_all_others_are_sevas(made):
    store, usual, contrasted, own = made
    pairs = contrast_pairs(CONFIG, store, usual, contrasted)
    assert pairs.name == "pairs/toy/toy/moco+contrast"
    assert [item.name for item in lineage(store, pairs)[2]] == ["responses/toy/toy/moco"]
    rows, of_seva = read_pairs(pairs).to_pylist(), read_pairs(usual).to_pylist()
    others = [row for row in rows if sense(row["chosen"]) not in ("yes", "no")]
    assert sorted(row["prompt_id"] for row in others) == sorted(
        row["prompt_id"] for row in of_seva if own[row["prompt_id"]] in ("a dog", "two")
    )
    assert all(row in of_seva for row in others)
    sides = Counter(row["chosen"] for row in short(contrasted))
    assert sides["no"] > sides["yes"] > 0
    assert Counter(row["chosen"] for row in short(pairs)) == {"yes": sides["yes"], "no": sides["yes"]}
    for row in short(pairs):
        assert row["rejected"][0]["text"] == own[row["prompt_id"]] != row["chosen"]
        assert row in short(contrasted)
    counts = pairs.counts
    assert counts["verdicts"]["kept"] == len(rows)
    assert counts["num_by_contrast"] == 2 * sides["yes"]
    assert sum(counts["verdicts"].values()) == counts["num_prompts"]


def test_all_of_them_are_kept_if_they_need_not_be_balanced(made):
    store, usual, contrasted, _ = made
    pairs = contrast_pairs(replace(CONFIG, balanced=False), store, usual, contrasted)
    assert short(pairs) == short(contrasted)
    control = contrast_pairs(replace(CONFIG, name="turned", balanced=False, turned=True), store, usual, contrasted)
    assert Counter(row["chosen"] for row in short(control)) == Counter(row["chosen"] for row in short(contrasted))


def test_sevas_pairs_fill_what_is_left_of_a_number_of_pairs(made):
    store, usual, contrasted, _ = made
    whole = contrast_pairs(CONFIG, store, usual, contrasted)
    some = contrast_pairs(replace(CONFIG, name="some", num_pairs=30), store, usual, contrasted)
    assert some.counts["verdicts"]["kept"] == 30 < whole.counts["verdicts"]["kept"]
    assert short(some) == short(whole)
    fewer = contrast_pairs(replace(CONFIG, name="fewer", num_pairs=1), store, usual, contrasted)
    assert read_pairs(fewer).to_pylist() == short(whole)


def test_the_control_turns_as_many_short_answers_round_whatever_was_chosen(made):
    store, usual, contrasted, own = made
    pairs, control = (
        contrast_pairs(config, store, usual, contrasted)
        for config in (CONFIG, replace(CONFIG, name="turned", turned=True))
    )
    turned = short(control)
    assert Counter(row["chosen"] for row in turned) == Counter(row["chosen"] for row in short(pairs))
    for row in turned:
        assert {row["chosen"], row["rejected"][0]["text"]} == {"yes", "no"}
        assert row["rejected"][0]["text"] == own[row["prompt_id"]]
        assert bytes(row["chosen_token_ids"]).decode() == row["chosen"]
    ids = {row["prompt_id"] for row in turned}
    assert len(ids) == len(turned)
    assert ids - {row["prompt_id"] for row in short(contrasted)}, "not only prompts that the contrast has chosen"
    assert control.counts["verdicts"]["kept"] == pairs.counts["verdicts"]["kept"]


def test_a_contrast_that_chooses_one_side_only_is_one_line(made):
    store, usual, contrasted, _ = made
    config = replace(CONFIG, short_answers=("yes", "no", "perhaps"))
    with pytest.raises(NothingLeft, match=r"the contrast does not choose each of no and perhaps and yes where"):
        contrast_pairs(config, store, usual, contrasted)


def test_the_method_chooses_answers_itself():
    with pytest.raises(ConfigError, match="method contrast: chooses answers itself, so it needs chosen clean"):
        replace(full.PRESETS["toy"], method="contrast", chosen="contrast", views=("clean",))
