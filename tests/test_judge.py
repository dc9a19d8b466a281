"""Many prompts to a judge: what is kept, what is asked again, and when the run stops."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from seva_ray.benchmarks.judged.endpoint import Endpoint
from seva_ray.benchmarks.judged.judgement import NUM_ASKS, STOP_AFTER, JudgePrompt, Marks, ask_all
from seva_ray.core.errors import InputError
from tests.judge_server import (
    KEY,
    Behaviour,
    Call,
    Handler,
    JudgeServer,
    completion,
    fails,
    hangs_up,
    says,
    send,
    sends,
)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def number(verdict: str) -> Marks | None:
    return (float(verdict),) if verdict.isdigit() else None


def prompts(count: int) -> list[JudgePrompt]:
    return [JudgePrompt(text=str(n)) for n in range(count)]


def echo(prompt: str) -> str:
    return prompt


def test_every_prompt_gets_a_verdict_of_its_own_per_repeat_and_equal_ones_share_it(tmp_path: Path):
    with JudgeServer(says(echo)) as server:
        verdicts = ask_all(Endpoint(server.judge(num_repeats=3)), str(tmp_path), [*prompts(20), *prompts(20)], number)
    assert {text: [verdict.marks for verdict in of] for text, of in verdicts.items()} == {
        str(n): [(n,)] * 3 for n in range(20)
    }
    assert Counter(call.prompt for call in server.calls) == {str(n): 3 for n in range(20)}


def test_verdicts_are_right_and_complete_behind_a_server_that_fails_half_of_the_time(tmp_path: Path):
    rng, lock = random.Random(0), threading.Lock()
    bad: list[Behaviour] = [
        fails(429, Retry_After="0"), fails(500), sends(b"{"), sends(completion("7")[:40], Content_Length="999"),
        hangs_up, says("who knows"), says("4", "length"),
    ]  # fmt: skip

    def moody(handler: Handler, call: Call, number: int) -> None:
        with lock:
            behaviour = rng.choice(bad) if rng.random() < 0.5 else says(echo)
        behaviour(handler, call, number)

    with JudgeServer(moody) as server:
        verdicts = ask_all(Endpoint(server.judge(max_retries=30)), str(tmp_path), prompts(60), number)
    wrong = {text: of[0].marks for text, of in verdicts.items() if of[0].marks not in ((float(text),), None)}
    assert wrong == {}
    assert sum(of[0].marks is None for of in verdicts.values()) < 15


def test_a_verdict_that_cannot_be_read_is_asked_again_and_then_unjudged_for_good(tmp_path: Path):
    with JudgeServer(says(lambda prompt: "hard to say" if prompt == "1" else prompt)) as server:
        verdicts = ask_all(Endpoint(server.judge()), str(tmp_path), prompts(3), number)
        assert [of[0].marks for of in verdicts.values()] == [(0,), None, (2,)]
        assert verdicts["1"][0].text == "hard to say"
        assert verdicts["1"][0].num_tokens == NUM_ASKS * 12
        assert Counter(call.prompt for call in server.calls) == {"0": 1, "1": NUM_ASKS, "2": 1}
        assert ask_all(Endpoint(server.judge()), str(tmp_path), prompts(3), number) == verdicts
        assert len(server.calls) == 2 + NUM_ASKS


def test_a_verdict_with_another_number_of_marks_cannot_be_used(tmp_path: Path):
    with JudgeServer(says("5")) as server:
        verdicts = ask_all(Endpoint(server.judge()), str(tmp_path), [JudgePrompt(text="x", num_marks=2)], number)
    assert verdicts["x"][0].marks is None


def test_the_line_that_the_token_limit_cut_is_not_read(tmp_path: Path):
    with JudgeServer(says("8\n1", "length")) as server:
        verdicts = ask_all(Endpoint(server.judge()), str(tmp_path), [JudgePrompt(text="x")], number)
    assert verdicts["x"][0].marks == (8,)


def test_when_the_budget_is_spent_the_rest_is_named_and_the_next_run_asks_for_it_alone(tmp_path: Path):
    with JudgeServer(says(echo)) as server:
        for left in (6, 2):
            with pytest.raises(
                InputError, match=rf"{left} of 10 verdicts are missing \(the budget of max_calls is spent\)"
            ):
                ask_all(Endpoint(server.judge(max_calls=4)), str(tmp_path), prompts(10), number)
        assert len(ask_all(Endpoint(server.judge(max_calls=4)), str(tmp_path), prompts(10), number)) == 10
    assert Counter(call.prompt for call in server.calls) == {str(n): 1 for n in range(10)}


SCRIPT = """
import sys
from seva_ray.benchmarks.judged.endpoint import Endpoint, Judge
from seva_ray.benchmarks.judged.judgement import JudgePrompt, ask_all
url, directory = sys.argv[1:]
judge = Judge(model="judge-1", num_repeats=1, base_url=url, max_concurrent=2)
ask_all(Endpoint(judge), directory, [JudgePrompt(text=str(n)) for n in range(8)], lambda text: (float(text),))
"""


def test_a_killed_run_asks_only_for_what_it_has_not_heard(tmp_path: Path):
    dead = threading.Event()

    def slow(handler: Handler, call: Call, number: int) -> None:
        if int(call.prompt) >= 5:
            dead.wait(60)
        says(echo)(handler, call, number)

    def kept() -> int:
        return len(list(tmp_path.glob("*.json")))

    with JudgeServer(slow) as server:
        words = [sys.executable, "-c", SCRIPT, server.url, str(tmp_path)]
        victim = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": "."})
        deadline = time.monotonic() + 60
        while kept() < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        dead.set()
        assert kept() == 5
        verdicts = ask_all(Endpoint(server.judge()), str(tmp_path), prompts(8), number)
    assert [of[0].marks for of in verdicts.values()] == [(n,) for n in range(8)]
    times = Counter(call.prompt for call in server.calls)
    assert {prompt: times[prompt] for prompt in "01234"} == dict.fromkeys("01234", 1)
    assert sum(times.values()) <= 8 + 2, "at most what was under way is asked again"


def test_another_judge_temperature_or_repeat_is_another_verdict_but_a_judge_that_moved_is_not(tmp_path: Path):
    with JudgeServer(says("1")) as server, JudgeServer(says("2")) as moved:

        def ask(at: JudgeServer, **fields: object) -> list[Marks | None]:
            found = ask_all(Endpoint(at.judge(**fields)), str(tmp_path), [JudgePrompt(text="x")], number)
            return [verdict.marks for verdict in found["x"]]

        assert ask(server) == [(1,)]
        assert ask(moved, max_concurrent=1) == [(1,)]
        assert ask(moved, num_repeats=2) == [(1,), (2,)]
        assert ask(moved, temperature=0.9) == [(2,)]
        assert ask(moved, max_tokens=9) == [(2,)]
        assert ask(moved, model="judge-2") == [(2,)]


def test_an_endpoint_that_goes_down_is_left_alone_and_what_it_said_is_kept(tmp_path: Path):
    def dies(handler: Handler, call: Call, number: int) -> None:
        (says(echo) if number < 10 else fails(503, "gone"))(handler, call, number)

    with JudgeServer(dies) as server:
        endpoint = Endpoint(server.judge(max_retries=1, max_concurrent=1))
        with pytest.raises(InputError, match=r"90 of 100 verdicts are missing \(HTTP 503 gone\); the same command"):
            ask_all(endpoint, str(tmp_path), prompts(100), number)
    assert len(list(tmp_path.glob("*.json"))) == 10
    assert 10 + 2 * STOP_AFTER <= len(server.calls) <= 10 + 2 * (STOP_AFTER + 2)


def test_one_refused_prompt_is_unjudged_and_costs_the_others_nothing(tmp_path: Path):
    def strict(handler: Handler, call: Call, number: int) -> None:
        (fails(400, "too long") if call.prompt == "3" else says(echo))(handler, call, number)

    with JudgeServer(strict) as server:
        verdicts = ask_all(Endpoint(server.judge()), str(tmp_path), prompts(30), number)
    assert [text for text, of in verdicts.items() if of[0].refused] == ["3"]
    assert verdicts["3"][0].marks is None
    assert verdicts["3"][0].text == "HTTP 400 too long"


def test_an_endpoint_that_refuses_every_prompt_is_not_asked_them_all(tmp_path: Path):
    with JudgeServer(fails(400, "no such parameter: max_tokens")) as server:
        with pytest.raises(InputError, match="refuses every prompt: HTTP 400 no such parameter"):
            ask_all(Endpoint(server.judge(max_concurrent=2)), str(tmp_path), prompts(200), number)
        assert len(server.calls) < 50


def test_a_wrong_key_ends_the_run_at_once(tmp_path: Path):
    with JudgeServer(fails(401, "who are you")) as server:
        with pytest.raises(InputError, match="HTTP 401 who are you"):
            ask_all(Endpoint(server.judge(max_concurrent=2)), str(tmp_path), prompts(200), number)
        assert len(server.calls) < 50


def test_the_key_is_in_no_file_and_no_output(
    tmp_path: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
):
    def echoes(handler: Handler, call: Call, number: int) -> None:
        body = json.loads(completion(f"5 {call.headers['Authorization']}"))
        send(handler, 200, json.dumps(body | {"model": KEY}).encode(), {"X-Key": KEY})

    caplog.set_level(0)
    with JudgeServer(echoes) as server:
        verdicts = ask_all(Endpoint(server.judge()), str(tmp_path), prompts(3), number)
    files = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3 * NUM_ASKS
    out = capfd.readouterr()
    for text in (*files, out.out, out.err, caplog.text, repr(verdicts)):
        assert KEY not in text
    assert all("Bearer ***" in file for file in files)


def test_a_file_that_is_no_reply_is_named(tmp_path: Path):
    with JudgeServer(says("1")) as server:
        ask_all(Endpoint(server.judge()), str(tmp_path), prompts(1), number)
        (file,) = tmp_path.glob("*.json")
        for content in ('{"text": "1"', '{"text": "1"}', "[]"):
            file.write_text(content)
            with pytest.raises(InputError, match=f"{file.name}: is not a reply of a judge"):
                ask_all(Endpoint(server.judge()), str(tmp_path), prompts(1), number)
