"""Verdicts: every pair of responses ends as exactly one of them."""

import itertools

import pytest

from seva_ray.core.records import Response
from seva_ray.pairs.filters import FILTERS, Filters
from seva_ray.pairs.verdicts import OPTIONAL, VERDICTS, verdict_of


def said(text: str, finish_reason: str = "stop") -> Response:
    return Response(prompt_id="p", text=text, token_ids=[1, 2], finish_reason=finish_reason)


FAILED = Response(prompt_id="p", error="image 'a.jpg': the file is empty")


def test_two_different_answers_are_kept():
    assert verdict_of(said("a cat"), said("a dog"), keep_truncated=True) == ("kept", None)


def test_equal_answers_are_equal_even_where_their_tokens_or_ends_differ():
    text = "".join(["a ", "cat"])  # equal, but another object, as every text that was read from a file
    cut = Response(prompt_id="p", text=text, token_ids=[7], finish_reason="length")
    assert verdict_of(said("a cat"), cut, keep_truncated=False) == ("equal", None)


def test_two_empty_answers_are_equal_and_one_is_empty():
    assert verdict_of(said(""), said(""), keep_truncated=True) == ("equal", None)
    assert verdict_of(said(""), said("a"), keep_truncated=True) == ("empty", None)
    assert verdict_of(said("a"), said(""), keep_truncated=True) == ("empty", None)


def test_an_empty_answer_is_kept_on_request_if_it_has_a_token_to_train_on():
    ended, nothing = (Response(prompt_id="p", text="", token_ids=ids, finish_reason="stop") for ids in ([2], []))
    assert verdict_of(said("a"), ended, keep_truncated=True, keep_empty=True) == ("kept", None)
    assert verdict_of(ended, said("a"), keep_truncated=True, keep_empty=True) == ("kept", None)
    assert verdict_of(said("a"), nothing, keep_truncated=True, keep_empty=True) == ("empty", None)
    assert verdict_of(ended, ended, keep_truncated=True, keep_empty=True) == ("equal", None)


@pytest.mark.parametrize("sides", [("length", "stop"), ("stop", "length"), ("length", "length")])
def test_a_cut_answer_is_kept_or_not_as_configured(sides):
    chosen, rejected = (said(text, reason) for text, reason in zip("ab", sides, strict=True))
    assert verdict_of(chosen, rejected, keep_truncated=True) == ("kept", None)
    assert verdict_of(chosen, rejected, keep_truncated=False) == ("truncated", None)


def test_an_error_fails_the_pair_and_is_told_the_first_one_first():
    other = Response(prompt_id="p", error="engine: prompt too long")
    assert verdict_of(FAILED, said("a"), keep_truncated=True) == ("failed", FAILED.error)
    assert verdict_of(said("a"), FAILED, keep_truncated=True) == ("failed", FAILED.error)
    assert verdict_of(FAILED, other, keep_truncated=True) == ("failed", FAILED.error)


def test_a_text_without_its_tokens_fails_because_training_would_give_nan():
    bare = Response(prompt_id="p", text="a cat", finish_reason="stop")
    for sides in ((bare, said("a dog")), (said("a dog"), bare)):
        verdict, error = verdict_of(*sides, keep_truncated=True)
        assert (verdict, error) == (
            "failed",
            "the engine returned an answer without its token ids, which training needs",
        )


STRICT = Filters(repetition=1, length_ratio=(1, 1), edit_distance=(0, 0), word_overlap=(1, 1))


def test_filters_see_only_what_the_other_rules_would_keep():
    assert verdict_of(FAILED, said("a"), True, STRICT) == ("failed", FAILED.error)
    assert verdict_of(said("a"), said("a"), True, STRICT) == ("equal", None)
    assert verdict_of(said("a"), said(""), True, STRICT) == ("empty", None)
    assert verdict_of(said("a"), said("b b", "length"), False, STRICT) == ("truncated", None)
    assert verdict_of(said("a"), said("b b", "length"), True, STRICT) == ("length_ratio", None)
    assert verdict_of(said("a cat"), said("A cat."), True, STRICT) == ("kept", None)


def test_every_filter_is_a_verdict_in_the_order_of_the_rules():
    assert list(VERDICTS) == ["kept", "equal", "empty", "truncated", *FILTERS, "surplus", "failed"]
    assert tuple(VERDICTS)[4:-1] == OPTIONAL


def test_every_combination_has_one_verdict_and_only_a_failure_has_an_error():
    sides = [said("a"), said("b"), said(""), said("a", "length"), said("", "length"), FAILED]
    for chosen, rejected, keep, filters in itertools.product(sides, sides, (True, False), (Filters(), STRICT)):
        verdict, error = verdict_of(chosen, rejected, keep, filters)
        assert verdict in VERDICTS
        assert (error is not None) == (verdict == "failed")
        assert verdict != "kept" or chosen.text != rejected.text
