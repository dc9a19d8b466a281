"""Verdicts of a judge model on prompts: each prompt several times, in parallel, and no reply is paid for twice.

In: prompts, and how a verdict is read. Out: for each prompt one verdict per repeat. A reply is a file of its own as
soon as it is there, under a name that follows from judge, settings, prompt and repeat: a killed run goes on where it
was, and benchmarks, policies and later runs share what was said about the same answer.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass

from seva_ray.benchmarks.judged.endpoint import BudgetSpent, Endpoint, Judge, Refused, Reply, Unanswered
from seva_ray.core.errors import InputError
from seva_ray.core.storage import names_in, read_bytes, write_bytes

Marks = tuple[float, ...]
"""What a verdict says, as numbers."""
NUM_ASKS = 3
"""Replies to one repeat until one can be read."""
STOP_AFTER = 8
"""So many prompts without a reply, one after the other, are the endpoint's fault and not theirs."""


@dataclass(frozen=True, kw_only=True)
class JudgePrompt:
    """One question to the judge."""

    text: str
    num_marks: int = 1
    """Of a verdict that can be used."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One repeat of one prompt."""

    text: str
    """The last reply; or why the endpoint refused."""
    marks: Marks | None
    """None: unjudged, because no reply could be read."""
    model: str = ""
    """That replied, as the endpoint calls it."""
    num_tokens: int = 0
    refused: bool = False


@dataclass(frozen=True, kw_only=True)
class Asker:
    """What the threads of one run share."""

    endpoint: Endpoint
    directory: str
    """URI of the replies."""
    there: Collection[str]
    """Names of those that an earlier run left."""
    parse: Callable[[str], Marks | None]

    def verdict(self, prompt: JudgePrompt, repeat: int) -> Judgement:
        """Raises: what Endpoint.ask raises, but for Refused."""
        num_tokens = 0
        for ask in range(NUM_ASKS):
            try:
                reply = self.reply(prompt.text, repeat, ask)
            except Refused as error:
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
                raise InputError(f"{uri}: is no reply of a judge; remove it") from None
        reply = self.endpoint.ask(prompt)
        write_bytes(uri, json.dumps(asdict(reply)).encode())
        return reply


def file_name(judge: Judge, prompt: str, repeat: int, ask: int) -> str:
    """Not the endpoint's address: a judge that moved is the same judge."""
    asked = [judge.model, judge.temperature, judge.max_tokens, prompt, repeat, ask]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest() + ".json"


def whole_lines(reply: Reply) -> str:
    """Without a last line that the token limit may have cut: "1" could have become "10"."""
    return reply.text.rpartition("\n")[0] if reply.cut else reply.text


def ask_all(
    endpoint: Endpoint,
    directory: str,
    prompts: Iterable[JudgePrompt],
    parse: Callable[[str], Marks | None],
    done: Callable[[int], None] = lambda count: None,
) -> dict[str, list[Judgement]]:
    """A verdict per repeat for the text of each prompt; equal prompts are asked once. `done` hears of each verdict.

    Raises: InputError, once the calls under way are over and kept, where the budget or the endpoint's patience ends.
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
                endpoint.stopped.set()  # nobody waits for another try
            pool.shutdown(wait=False, cancel_futures=True)
    for future, key in asked.items():  # what was under way
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
    """Fills `found` until all is there or it makes no sense to go on; why something is missing."""
    reason, num_failed, num_replied = "", 0, 0
    for future in as_completed(asked):
        try:
            verdict = future.result()
        except BudgetSpent:
            return "all of max_calls is spent"
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
