"""Answers to MMBench that no rule can read are read by the judge, before they are scored.

The judge's replies are kept in `verdicts/<judge>`, like all others. An answer that the judge reads is replaced by the
letter of its option, so that the benchmark scores it as usual. An answer that it cannot read stays, and is wrong.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from seva_ray.benchmarks.base import protocol_of, text_of
from seva_ray.benchmarks.judged.endpoint import Endpoint, Judge
from seva_ray.benchmarks.judged.judgement import JudgePrompt, ask_all
from seva_ray.benchmarks.judged.mmbench_reader import INSTRUCTIONS, LETTERS, NONE, parse, reading_prompt
from seva_ray.benchmarks.letters import vlmevalkit_letter
from seva_ray.benchmarks.mmbench import MMBench
from seva_ray.core.artifacts import Store
from seva_ray.core.records import Response
from seva_ray.runtime.progress import Progress, say
from seva_ray.stages.judge import verdicts_of

Responses = Mapping[str, Response]


def needs_reader(benchmark: object) -> bool:
    """Whether the judge reads answers of this benchmark."""
    return isinstance(benchmark, MMBench) and benchmark.reader == "judge"


def reading_recipe(judge: Judge) -> dict[str, Any]:
    return {"judge": judge, "prompt_hash": prompt_hash()}


def prompt_hash() -> str:
    return hashlib.sha256(INSTRUCTIONS.encode()).hexdigest()[:16]


def read_by_judge(
    endpoint: Endpoint, store: Store, benchmark: MMBench, responses: Sequence[Responses]
) -> tuple[list[Responses], dict[str, Any]]:
    """Each model's responses, with a letter in place of every answer that only the judge can read; and the counts.

    Raises: InputError if verdicts are missing; those already made are kept.
    """
    judge = endpoint.judge
    asked = [unread(benchmark, of_model) for of_model in responses]
    prompts = list({prompt.text: prompt for of_model in asked for prompt in of_model.values()}.values())
    say(f"judge {benchmark.name} by {judge.model}: {len(prompts):,} answers that no rule can read")
    progress = Progress("judge", len(prompts) * judge.num_repeats, "verdicts")
    directory = store.uri(verdicts_of(judge))
    verdicts = ask_all(endpoint, directory, prompts, parse, done=progress.add) if prompts else {}
    letters = {text: letter_of([verdict.marks for verdict in of_text]) for text, of_text in verdicts.items()}
    read = [with_letters(of_model, prompts_of, letters) for of_model, prompts_of in zip(responses, asked, strict=True)]
    counts = {
        "protocol": f"{protocol_of(benchmark)}, read by {judge.model} {prompt_hash()}",
        "num_asked": len(prompts),
        "num_read": sum(letter is not None for letter in letters.values()),
    }
    return read, counts


def unread(benchmark: MMBench, responses: Responses) -> dict[str, JudgePrompt]:
    """The judge prompts of answers with a text in which no rule finds an option, by prompt_id."""
    found = {}
    for question in benchmark.questions:
        for rotation in question.rotations:
            text = text_of(responses, rotation.prompt.prompt_id)
            if text and vlmevalkit_letter(text, rotation.options) is None:
                asked, _, _ = rotation.prompt.question.partition(f"\n{LETTERS[0]}. {rotation.options[0]}")
                found[rotation.prompt.prompt_id] = reading_prompt(asked, rotation.options, text)
    return found


def letter_of(repeats: Sequence[tuple[float, ...] | None]) -> str | None:
    """The option that most repeats name, the first of them if there are several; None if no repeat names one."""
    named = [marks[0] for marks in repeats if marks is not None and marks[0] != NONE]
    return LETTERS[int(max(named, key=named.count))] if named else None


def with_letters(
    responses: Responses, asked: Mapping[str, JudgePrompt], letters: Mapping[str, str | None]
) -> Responses:
    read = {prompt_id: letter for prompt_id, prompt in asked.items() if (letter := letters[prompt.text])}
    return {
        prompt_id: replace(response, text=read.get(prompt_id, response.text))
        for prompt_id, response in responses.items()
    }
