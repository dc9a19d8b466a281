"""Rejected answers from other prompts: another answer, to a question of the same kind, the same in every order."""

from seva_ray.pairs.exchange import Answered, others

ANSWERED = [
    *(Answered(f"count{n}", "How many are there?", str(n % 3)) for n in range(7)),
    *(Answered(f"is{n}", f"Is there thing {n}?", "yes" if n % 4 else "no") for n in range(8)),
    Answered("alone", "Describe it.", "a red ball"),
]
TEXTS = {item.prompt_id: item.answer for item in ANSWERED}


def test_a_prompt_gets_another_answer_to_a_question_that_begins_with_the_same_word():
    given = others(ANSWERED)
    assert given.keys() == TEXTS.keys()
    for name, other in given.items():
        assert TEXTS[other] != TEXTS[name]
        if name != "alone":
            assert other.rstrip("0123456789") == name.rstrip("0123456789")
    assert len(set(given.values())) > 3, "answers come from many prompts"


def test_the_other_prompt_does_not_depend_on_the_order_of_rows():
    assert others(ANSWERED[::-1]) == others(ANSWERED)


def test_a_prompt_whose_answer_all_others_have_is_left_out():
    assert others([Answered("a", "Is it?", "yes"), Answered("b", "Is it?", "yes")]) == {}
    assert others(ANSWERED[:1]) == {}
    assert others([]) == {}


def test_a_long_run_of_equal_answers_takes_no_time():
    many = [Answered(f"p{n}", "Is it?", "yes") for n in range(20_000)] + [Answered("no", "Is it?", "no")]
    given = others(many)
    assert set(given.values()) - {given["no"]} == {"no"}
    assert len(given) == len(many)
