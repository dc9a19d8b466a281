"""One call to a judge over a real socket, to servers that work and to servers that do not."""

import os
import time

import pytest

from seva_ray.benchmarks.judged.endpoint import (
    MAX_BYTES,
    BudgetSpent,
    Endpoint,
    Judge,
    PromptRefused,
    Unanswered,
    retry_after,
)
from seva_ray.core.errors import ConfigError, InputError
from tests.judge_server import (
    KEY,
    Behaviour,
    Call,
    Handler,
    JudgeServer,
    completion,
    drips,
    fails,
    first,
    hangs_up,
    says,
    send,
    sends,
)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def hangs(handler: Handler, call: Call, number: int) -> None:
    time.sleep(1.5)


def test_a_reply_comes_with_the_model_that_gave_it_and_the_request_is_openais():
    with JudgeServer(says("Score: 0.5")) as server:
        reply = Endpoint(server.judge(temperature=0.5, max_tokens=77)).ask("how good is this")
    assert (reply.text, reply.cut, reply.model, reply.num_tokens) == ("Score: 0.5", False, "judge-1-0613", 12)
    (call,) = server.calls
    assert call.path == "/v1/chat/completions"
    assert call.headers["Authorization"] == f"Bearer {KEY}"
    assert call.body == {
        "model": "judge-1",
        "messages": [{"role": "user", "content": "how good is this"}],
        "max_tokens": 77,
        "temperature": 0.5,
    }


def test_an_endpoint_without_a_key_or_temperature_gets_neither():
    with JudgeServer(says("fine")) as server:
        fields = {"key_variable": "", "temperature": None, "token_limit": "max_completion_tokens"}
        Endpoint(server.judge(**fields)).ask("x")
    assert "Authorization" not in server.calls[0].headers
    assert set(server.calls[0].body) == {"model", "messages", "max_completion_tokens"}


@pytest.mark.parametrize(
    "bad",
    [
        fails(429, Retry_After="0"),
        fails(429),
        fails(500),
        fails(503),
        sends(b'{"choices": [{"mess'),
        sends(completion("half an answer")[:60], Content_Length="500"),
        sends(b"<html>gateway</html>"),
        sends(b'{"choices": []}'),
        sends(b'{"choices": [{"message": {"content": 5}}]}'),
        sends(b"[" * 100_000),
        hangs_up,
        hangs,
    ],
    ids=[
        "429",
        "429 bare",
        "500",
        "503",
        "malformed",
        "half",
        "html",
        "none",
        "number",
        "deep",
        "hangs up",
        "slow",
    ],
)
def test_what_may_pass_is_tried_again(bad: Behaviour):
    with JudgeServer(first(2, bad, says("at last"))) as server:
        endpoint = Endpoint(server.judge(timeout_s=0.5))
        assert endpoint.ask("x").text == "at last"
    assert endpoint.num_calls == len(server.calls) == 3


def test_after_all_retries_the_reason_is_said():
    with JudgeServer(fails(503, "overloaded")) as server, pytest.raises(Unanswered, match="HTTP 503 overloaded"):
        Endpoint(server.judge(max_retries=3)).ask("x")
    assert len(server.calls) == 4


def test_nothing_is_asked_again_before_the_time_that_the_endpoint_names():
    with JudgeServer(first(1, fails(429, Retry_After="1"), says("ok"))) as server:
        Endpoint(server.judge()).ask("x")
    assert server.calls[1].at - server.calls[0].at >= 1


def test_an_endpoint_that_asks_to_wait_for_hours_has_failed():
    with JudgeServer(fails(429, Retry_After="7200")) as server, pytest.raises(Unanswered, match="to wait 7200 s"):
        Endpoint(server.judge()).ask("x")
    assert len(server.calls) == 1


def test_the_wait_may_be_seconds_or_a_date_and_nonsense_is_none():
    assert retry_after("2.5") == 2.5
    assert retry_after("-3") == 0
    assert retry_after("Fri, 31 Dec 1999 23:59:59 GMT") == 0
    assert retry_after("Fri, 31 Dec 2999 23:59:59 GMT") > 1e9  # type: ignore[operator]
    assert retry_after("soon") is None
    assert retry_after(None) is None


def test_an_answer_without_end_is_given_up_at_the_time_limit():
    with JudgeServer(drips) as server, pytest.raises(Unanswered, match="timed out"):
        Endpoint(server.judge(timeout_s=0.3, max_retries=0)).ask("x")


def test_a_huge_answer_is_not_read():
    with JudgeServer(sends(b" " * (MAX_BYTES + 1))) as server, pytest.raises(Unanswered, match="longer than"):
        Endpoint(server.judge(max_retries=0)).ask("x")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_retry_mends_ends_the_run_in_one_line_without_the_key(status: int):
    with JudgeServer(fails(status, f"bad key {KEY}\nsecond line")) as server, pytest.raises(InputError) as caught:
        Endpoint(server.judge()).ask("x")
    assert str(caught.value) == f"judge at {server.url}: HTTP {status} bad key *** second line"
    assert len(server.calls) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_prompt_that_is_refused_is_not_asked_again(status: int):
    with JudgeServer(fails(status, "too long")) as server, pytest.raises(PromptRefused, match="too long"):
        Endpoint(server.judge()).ask("x")
    assert len(server.calls) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_so_that_the_key_goes_nowhere_else(status: int):
    with JudgeServer(says("stolen")) as other:
        elsewhere = fails(status, Location=f"{other.url}/chat/completions")
        with JudgeServer(elsewhere) as server, pytest.raises(InputError, match=f"HTTP {status}, a redirect: not"):
            Endpoint(server.judge()).ask("x")
        assert other.calls == []


def test_a_proxy_does_not_see_what_goes_to_this_machine(monkeypatch: pytest.MonkeyPatch):
    with JudgeServer(says("stolen")) as proxy, JudgeServer(says("direct")) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert Endpoint(server.judge()).ask("x").text == "direct"
        assert proxy.calls == []


@pytest.mark.parametrize(
    "proxy", ["ftp://proxy.example", "socks5://me:word@proxy.example", "http://proxy.example:none"]
)
def test_a_proxy_that_cannot_be_used_is_one_line_about_the_environment(monkeypatch: pytest.MonkeyPatch, proxy: str):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(InputError, match="environment variables HTTP_PROXY") as caught:
        Endpoint(Judge(model="m"))
    assert "\n" not in str(caught.value)
    assert "word" not in str(caught.value)


def test_calls_one_after_the_other_share_a_connection():
    clients = []

    def stays(handler: Handler, call: Call, number: int) -> None:
        handler.protocol_version, handler.close_connection = "HTTP/1.1", False
        clients.append(handler.client_address)
        send(handler, 200, completion("ok"))

    with JudgeServer(stays) as server:
        endpoint = Endpoint(server.judge())
        for _ in range(3):
            assert endpoint.ask("x").text == "ok"
    assert len(clients) == 3
    assert len(set(clients)) == 1


def test_a_connection_that_the_endpoint_closes_between_calls_costs_no_reply():
    def closes(handler: Handler, call: Call, number: int) -> None:
        handler.protocol_version = "HTTP/1.1"  # promises to stay open, and closes
        send(handler, 200, completion("ok"))

    with JudgeServer(closes) as server:
        endpoint = Endpoint(server.judge())
        assert [endpoint.ask("x").text for _ in range(5)] == ["ok"] * 5


def test_an_error_cannot_write_over_the_terminal():
    with JudgeServer(fails(403, "\x1b[2Jno\x07 entry")) as server, pytest.raises(InputError) as caught:
        Endpoint(server.judge()).ask("x")
    assert str(caught.value).endswith("HTTP 403 [2Jno entry")


def test_an_endpoint_that_repeats_the_key_does_not_get_it_into_a_reply():
    def echoes(handler: Handler, call: Call, number: int) -> None:
        send(handler, 200, completion(f"you sent {call.headers['Authorization']} \ud83d"))

    with JudgeServer(echoes) as server:
        assert Endpoint(server.judge()).ask("x").text == "you sent Bearer *** ?"


def test_a_key_that_is_no_secret_spoils_no_text(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    with JudgeServer(says("an EMPTY street")) as server:
        assert Endpoint(server.judge()).ask("x").text == "an EMPTY street"


def test_no_content_is_an_empty_reply_and_a_cut_one_says_so():
    with JudgeServer(sends(completion(None, "length"))) as server:
        reply = Endpoint(server.judge()).ask("x")
    assert (reply.text, reply.cut) == ("", True)


def test_the_budget_counts_every_call_also_those_that_failed():
    with JudgeServer(first(1, fails(500), says("ok"))) as server:
        endpoint = Endpoint(server.judge(max_calls=3))
        endpoint.ask("one")
        endpoint.ask("two")
        with pytest.raises(BudgetSpent):
            endpoint.ask("three")
    assert len(server.calls) == 3


def test_calls_start_no_faster_than_the_rate(monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []
    with JudgeServer(says("ok")) as server:
        endpoint = Endpoint(server.judge(requests_per_minute=2))
        monkeypatch.setattr(endpoint, "_sleep", waits.append)
        for _ in range(3):
            endpoint.ask("x")
    assert waits == pytest.approx([0, 30, 60], abs=10)


def test_a_missing_key_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(InputError, match="environment variable MY_KEY: not set"):
        Endpoint(Judge(model="m", key_variable="MY_KEY"))


def test_a_key_that_cannot_be_sent_is_not_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nX-Other: 1")
    with pytest.raises(InputError) as caught:
        Endpoint(Judge(model="m"))
    assert KEY not in str(caught.value)


def test_a_key_does_not_travel_in_the_clear_but_to_this_machine():
    with pytest.raises(InputError, match="would be sent unencrypted"):
        Endpoint(Judge(model="m", base_url="http://judge.example:8000/v1"))
    Endpoint(Judge(model="m", base_url="http://judge.example:8000/v1", key_variable=""))
    Endpoint(Judge(model="m", base_url="http://localhost:8000/v1"))
    Endpoint(Judge(model="m", base_url="http://[::1]:8000/v1"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"num_repeats": 0}, "num_repeats 0"),
        ({"max_calls": 0}, "max_calls 0"),
        ({"max_retries": -1}, "max_retries -1"),
        ({"timeout_s": 0}, "timeout_s 0"),
        ({"temperature": 3}, "temperature 3"),
        ({"base_url": "ftp://x"}, "base_url 'ftp://x'"),
        ({"base_url": "x/v1"}, "base_url 'x/v1'"),
        ({"base_url": "https://x/v1?key=5"}, "base_url"),
        ({"base_url": "https://me:word@x/v1"}, "must hold no user name or password"),
        ({"base_url": "https://me:word@x:none/v1"}, "base_url 'x:none/v1'"),
        ({"base_url": "http://[::1/v1"}, "base_url"),
    ],
)
def test_a_setting_that_cannot_work_is_named(fields: dict, message: str):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as caught:
        Judge(model="m", **fields)
    assert "word@" not in str(caught.value)


def test_the_key_is_nowhere_in_the_config():
    assert KEY in os.environ["OPENAI_API_KEY"]
    assert KEY not in repr(Judge(model="m"))
    assert KEY not in repr(vars(Judge(model="m")))
