"""Rows: they come back from Parquet as they were, whatever the text."""

from dataclasses import fields

import pytest

from seva_ray.core.records import PAIR_SCHEMA, PROMPT_SCHEMA, RESPONSE_SCHEMA, Prompt, Response, table
from seva_ray.core.storage import read_table, write_table


@pytest.mark.parametrize(("kind", "schema"), [(Prompt, PROMPT_SCHEMA), (Response, RESPONSE_SCHEMA)])
def test_the_schema_has_the_fields_of_its_record_in_order(kind, schema):
    assert [field.name for field in fields(kind) if field.compare] == schema.names


def test_prompts_survive_a_file(tmp_path):
    prompts = [
        Prompt(
            prompt_id="1", image_id="i", question="Was ist das?\n«猫» 🐈 \u0000", source="toy", image_path="a/b.jpg"
        ),
        Prompt(prompt_id="2", image_id="i", question="", source="toy", image_bytes=b"\x00\xff", error="too large"),
    ]
    write_table(f"{tmp_path}/0.parquet", table(prompts, PROMPT_SCHEMA))
    assert [Prompt(**row) for row in read_table(f"{tmp_path}/0.parquet").to_pylist()] == prompts


def test_responses_survive_a_file(tmp_path):
    responses = [
        Response(prompt_id="1", text="yes", token_ids=[5, 2], finish_reason="stop"),
        Response(prompt_id="2", token_ids=[], error="no image"),
    ]
    write_table(f"{tmp_path}/0.parquet", table(responses, RESPONSE_SCHEMA))
    assert [Response(**row) for row in read_table(f"{tmp_path}/0.parquet").to_pylist()] == responses


def test_no_rows_are_a_table_of_the_schema():
    assert table([], PAIR_SCHEMA).schema == PAIR_SCHEMA
    assert len(table([], PAIR_SCHEMA)) == 0


def test_a_row_as_a_mapping_is_taken_like_a_record():
    response = Response(prompt_id="1", text="yes", token_ids=[5, 2], finish_reason="stop")
    as_mapping = {"prompt_id": "1", "text": "yes", "token_ids": [5, 2], "finish_reason": "stop", "error": None}
    assert table([as_mapping], RESPONSE_SCHEMA).equals(table([response], RESPONSE_SCHEMA))


def test_a_response_that_nothing_was_said_about_is_an_error():
    assert Response(prompt_id="1").finish_reason == "error"
