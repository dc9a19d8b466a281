"""Verdicts of a judge model on prompts. Each is asked several times, in parallel, and no reply is paid for twice.

In: prompts, and a function that reads a verdict. Out: for each prompt one verdict per repeat. Each reply is written to
its own file at once. The file's name depends on judge, settings, prompt and repeat. So a killed run continues where it
stopped, and benchmarks, policies and later runs share the replies about the same answer.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass

from seva_ray.benchmarks.judged.endpoint import BudgetSpent, Endpoint, Judge, PromptRefused, Reply, Unanswered
from seva_ray.core.errors import InputError
from seva_ray.core.storage import names_in, read_bytes, write_bytes

Marks = tuple[float, ...]
"""The numbers that a verdict gives."""
NUM_ASKS = 3
"""How often one repeat is asked until its reply can be read."""
STOP_AFTER = 8
"""If this number of prompts in a row get no reply, the endpoint is at fault, and the run stops."""


@dataclass(frozen=True, kw_only=True)
class JudgePrompt:
    """One question to the judge."""

    text: str
    num_marks: int = 1
    """Number of marks that a usable verdict has."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the judge said about one prompt in one repeat."""

    text: str
    """The last reply, or the reason why the endpoint refused the prompt."""
    marks: Marks | None
    """The numbers of the verdict, or None if no reply could be read, so that the answer is unjudged."""
    model: str = ""
    """The model that replied, as the endpoint names it."""
    num_tokens: int = 0
    refused: bool = False


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Asks the judge. The threads of one run share it."""

    endpoint: Endpoint
    directory: str
    """URI of the directory with the replies."""
    there: Collection[str]
    """Names of the replies that an earlier run left there."""
    parse: Callable[[str], Marks | None]

    def verdict(self, prompt: JudgePrompt, repeat: int) -> Judgement:
        """Raises: what Endpoint.ask raises, except PromptRefused."""
        num_tokens = 0
        for ask in range(NUM_ASKS):
            try:
                reply = self.reply(prompt.text, repeat, ask)
            except PromptRefused as error:
                return Judgement(text=str(error), marks=None, num_tokens=num_tokens, refused=True)
            num_tokens += reply.num_tokens
            marks = self.parse(whole_lines(reply))
            if marks is not None and len(marks) != prompt.num_marks:
                marks = None
            if marks is not None:
                break
        return Judgement(text=reply.text, marks=marks, model=reply.model, num_tokens=num_tokens)

    def reply(self, prompt: str, repeat: int, ask: int) -> Reply:
        name = file_name(self.endpoint.judge, prompt, repeat, ask)
        uri = f"{self.directory}/{name}"
        if name in self.there:
            try:
                return Reply(**json.loads(read_bytes(uri)))
            except (ValueError, TypeError):
                raise InputError(f"{uri}: is not a reply of a judge; remove it") from None
        reply = self.endpoint.ask(prompt)
        write_bytes(uri, json.dumps(asdict(reply)).encode())
        return reply


def file_name(judge: Judge, prompt: str, repeat: int, ask: int) -> str:
    """The name of a reply's file. It leaves out the endpoint's address: a judge that moved is the same judge."""
    asked = [judge.model, judge.temperature, judge.max_tokens, prompt, repeat, ask]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest() + ".json"


def whole_lines(reply: Reply) -> str:
    """The text without a last line that the token limit may have cut: a "1" could have become a "10"."""
    return reply.text.rpartition("\n")[0] if reply.cut else reply.text


def ask_all(
    endpoint: Endpoint,
    directory: str,
    prompts: Iterable[JudgePrompt],
    parse: Callable[[str], Marks | None],
    done: Callable[[int], None] = lambda count: None,
) -> dict[str, list[Judgement]]:
    """Returns one verdict per repeat for the text of each prompt. Equal prompts are asked once. `done` is called for
    each verdict.

    Raises: InputError if the budget is spent or the endpoint stops answering. Running calls end first and are kept.
    """
    judge = endpoint.judge
    distinct = list({prompt.text: prompt for prompt in prompts}.values())
    asker = Asker(endpoint=endpoint, directory=directory, there=names_in(directory), parse=parse)
    found: dict[tuple[str, int], Judgement] = {}
    with ThreadPoolExecutor(judge.max_concurrent) as pool:
        asked = {
            pool.submit(asker.verdict, prompt, repeat): (prompt.text, repeat)
            for repeat in range(judge.num_repeats)
            for prompt in distinct
        }
        try:
            reason = collect(asked, found, done)
        finally:
            if len(found) < len(asked):
                endpoint.stopped.set()  # no thread waits for another try
            pool.shutdown(wait=False, cancel_futures=True)
    for future, key in asked.items():  # calls that were running
        if not future.cancelled() and future.exception() is None:
            found[key] = future.result()
    if len(found) < len(asked):
        missing = f"{len(asked) - len(found):,} of {len(asked):,} verdicts are missing"
        raise InputError(f"judge {judge.model}: {missing} ({reason}); the same command asks for the rest")
    return {prompt.text: [found[prompt.text, repeat] for repeat in range(judge.num_repeats)] for prompt in distinct}


def collect(
    asked: dict[Future[Judgement], tuple[str, int]],
    found: dict[tuple[str, int], Judgement],
    done: Callable[[int], None],
) -> str:
    """Fill `found` until it is complete or it is useless to continue. Returns why something is missing."""
    reason, num_failed, num_replied = "", 0, 0
    for future in as_completed(asked):
        try:
            verdict = future.result()
        except BudgetSpent:
            return "the budget of max_calls is spent"
        except Unanswered as error:
            reason, num_failed = str(error), num_failed + 1
            if num_failed >= STOP_AFTER:
                return reason
            continue
        found[asked[future]] = verdict
        num_replied += not verdict.refused
        if not num_replied and len(found) >= STOP_AFTER:
            raise InputError(f"the judge's endpoint refuses every prompt: {verdict.text}")
        num_failed = 0
        done(1)
    return reason
