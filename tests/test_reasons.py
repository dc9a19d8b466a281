"""Reasons of failed rows: what differs only in names and numbers is one reason."""

from seva_ray.core.reasons import Reasons


def reasons_of(*errors: str) -> Reasons:
    reasons = Reasons()
    for number, error in enumerate(errors):
        reasons.add(f"p{number}", error)
    return reasons


def test_errors_that_differ_in_what_they_name_are_one_reason_with_its_first_row_as_example():
    reasons = reasons_of(
        "image 'coco/cat.jpg': no such file under image_root",
        "row a/b.jsonl-3: field image: unknown source 'sam', must be one of coco, gqa",
        "image 'a dog.png': no such file under image_root",
        "row 17: field image: unknown source 'wikiart', must be one of coco, gqa",
        "The prompt (length 454) is longer than 256",
        "image 'vg/7.jpg': no such file under image_root",
    )
    assert reasons.lines() == [
        "3 failed, such as 'p0': image 'coco/cat.jpg': no such file under image_root",
        "2 failed, such as 'p1': row a/b.jsonl-3: field image: unknown source 'sam', must be one of coco, gqa",
        "1 failed: 'p4': The prompt (length 454) is longer than 256",
    ]


def test_two_columns_are_two_reasons_and_a_line_is_cut():
    reasons = reasons_of("row 1: column 'a': empty", "row 2: column 'b': empty", "x\n" * 1000)
    assert reasons.counts.total() == len(reasons.counts) == 3
    assert all(len(line) < 350 and "\n" not in line for line in reasons.lines())


def test_reasons_of_parts_add_up_and_the_first_part_gives_the_example():
    reasons = reasons_of("image '1': gone", "odd")
    reasons.update(reasons_of("image '2': gone", "image '3': gone", "even"))
    assert reasons.lines(1) == ["3 failed, such as 'p0': image '1': gone"]
    assert reasons.counts.total() == 5
