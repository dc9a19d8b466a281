"""Which models the same engines can answer for: those that differ only in their weights."""

import json
from pathlib import Path
from typing import Any

from transformers import LlavaConfig

from seva_ray.vlm.models import architecture

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


def of(directory: Path, name: str, config: Any) -> str:
    (directory / name).mkdir()
    (directory / name / "config.json").write_text(json.dumps(config))
    return architecture(str(directory / name))


def test_a_config_that_leaves_out_default_values_is_that_of_the_same_architecture(tmp_path: Path):
    config = LlavaConfig(vision_config={"model_type": "clip_vision_model", **SMALL}, text_config=SMALL)
    whole, terse = config.to_dict(), config.to_diff_dict()
    assert "is_encoder_decoder" in whole
    assert "is_encoder_decoder" not in terse
    found = of(tmp_path, "whole", whole)
    assert of(tmp_path, "terse", terse) == found
    assert of(tmp_path, "older", terse | {"transformers_version": "4.0.0"}) == found
    assert of(tmp_path, "other", terse | {"image_token_index": 7}) != found


def test_a_model_that_transformers_does_not_know_is_compared_by_what_its_config_says(tmp_path: Path):
    own = {"model_type": "of_its_own", "hidden_size": 8}
    assert of(tmp_path, "one", own) == of(tmp_path, "two", own | {"dtype": "float16"}) != ""
    assert of(tmp_path, "larger", own | {"hidden_size": 9}) != of(tmp_path, "none", {})
