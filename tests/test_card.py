"""The model card, from plain data."""

from dataclasses import replace

from seva_ray.pages.card import CardContent, model_card
from seva_ray.scoring.intervals import Comparison

ROW = Comparison(
    metric="VQA accuracy", start=80.0, start_low=78.0, start_high=82.0, policy=84.26, policy_low=82.0,
    policy_high=86.0, difference=4.26, difference_low=1.5, difference_high=7.1, num_images=600,
)  # fmt: skip
CONTENT = CardContent(
    name="seva-7b",
    start="llava-1.5-7b-hf",
    what="merged",
    num_pairs=1000,
    num_steps=28,
    views={"diffusion-500": {"kept": 1000, "equal": 4000, "failed": 0}},
    scores={"pope": [ROW]},
    recipe={"kind": "Train", "beta": 0.1, "lora": {"kind": "Lora", "rank": 1024}},
    versions={"torch": "2.13.0"},
    fingerprint="abc123",
)


def test_the_card_has_recipe_funnel_and_scores_with_intervals():
    card = model_card(CONTENT)
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "| VQA accuracy | 80.0 | 84.3 | +4.3 [+1.5, +7.1] |" in card
    assert "| view | kept | equal |" in card
    assert "| diffusion-500 | 1,000 | 4,000 |" in card
    assert "| lora.rank | 1024 |" in card
    assert "abc123" in card


def test_a_policy_that_was_not_evaluated_says_so_and_an_adapter_says_what_it_is_for():
    card = model_card(replace(CONTENT, scores={}, what="adapter"))
    assert "The policy was not evaluated." in card
    assert "A LoRA adapter for llava-1.5-7b-hf" in card
    assert "library_name: peft" in card


def test_names_cannot_bring_markup_into_the_card():
    card = model_card(replace(CONTENT, name="x|<script>\n# y"))
    assert "<script>" not in card
    assert "\n# y" not in card


def test_a_difference_never_stands_without_its_interval():
    nan = float("nan")
    rows = [replace(ROW, difference=nan, difference_low=nan, difference_high=nan)]
    card = model_card(replace(CONTENT, scores={"pope": rows}))
    assert "| VQA accuracy | 80.0 | 84.3 | no interval |" in card
