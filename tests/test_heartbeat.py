"""A job that prints nothing for a while says what it waits for."""

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from seva_ray.runtime import heartbeat, progress
from seva_ray.runtime.heartbeat import awaited, waiting
from seva_ray.runtime.log_relay import LogRelay


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which the test sets. No other thread looks at it."""
    now = [time.monotonic()]
    monkeypatch.setattr(heartbeat, "threads", [None])
    for module in (heartbeat, progress):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(progress, "said_at", now[0])
    return now


def lines_of(capsys: pytest.CaptureFixture) -> list[str]:
    return capsys.readouterr().err.splitlines()


def look_after(seconds: float, clock: list[float]) -> None:
    clock[0] += seconds
    heartbeat.look()


def test_a_slow_start_is_announced_in_less_than_twenty_seconds_and_again_and_again(clock, capsys):
    with waiting("generate: waiting for an engine"):
        for _ in range(40):
            look_after(1, clock)
    assert lines_of(capsys) == [
        "generate: waiting for an engine, 15 s so far", "generate: waiting for an engine, 30 s so far",
    ]  # fmt: skip
    assert heartbeat.QUIET_S + heartbeat.LOOK_EVERY_S < 20


def test_any_other_line_starts_the_silence_anew(clock, capsys):
    with waiting("train: working on step 3/9"):
        for _ in range(3):
            look_after(14, clock)
            progress.say("step")
        look_after(14, clock)
        look_after(1, clock)
    assert lines_of(capsys) == ["step", "step", "step", "train: working on step 3/9, 57 s so far"]


def test_after_the_wait_and_without_one_it_is_quiet(clock, capsys):
    with pytest.raises(KeyError), waiting("pair: comparing the responses"):
        raise KeyError
    look_after(60, clock)
    assert lines_of(capsys) == []


def test_the_innermost_wait_is_shown_with_its_own_time(clock, capsys):
    with waiting("full: working"):
        look_after(10, clock)
        with waiting("report: drawing the page"):
            look_after(7, clock)
        look_after(16, clock)
    assert lines_of(capsys) == ["report: drawing the page, 7 s so far", "full: working, 33 s so far"]


def test_the_first_item_is_awaited_for_another_reason_than_the_others(clock, capsys):
    def slow() -> Iterator[int]:
        for number in range(2):
            look_after(20, clock)
            yield number
        look_after(20, clock)

    found = []
    for number in awaited(slow(), "an engine", "the next unit"):
        look_after(30, clock)  # what the caller does with an item is no wait for items
        progress.say("done")
        found.append(number)
    assert found == [0, 1]
    assert [line for line in lines_of(capsys) if line != "done"] == [
        "an engine, 20 s so far", "the next unit, 20 s so far", "the next unit, 20 s so far",
    ]  # fmt: skip


def test_workers_tell_the_relay_what_they_do_now(clock, capsys):
    relay = LogRelay()
    assert relay.taken() == ([], "")
    relay.send("train: resumed at step 4/9")
    relay.wait_for("train: merging the adapter")
    assert relay.taken() == (["train: resumed at step 4/9"], "train: merging the adapter")
    assert relay.taken() == ([], "train: merging the adapter")
    with waiting("train: waiting for the workers to start") as wait:
        look_after(16, clock)
        wait.becomes("train: merging the adapter")
        look_after(16, clock)
    assert lines_of(capsys) == [
        "train: waiting for the workers to start, 16 s so far", "train: merging the adapter, 16 s so far",
    ]  # fmt: skip


def test_a_thread_does_the_looking(monkeypatch, capsys):
    monkeypatch.setattr(heartbeat, "threads", [])
    monkeypatch.setattr(heartbeat, "QUIET_S", 0.2)
    monkeypatch.setattr(heartbeat, "LOOK_EVERY_S", 0.02)
    with waiting("generate: waiting for an engine"):
        time.sleep(0.6)
    assert "generate: waiting for an engine, 0." in capsys.readouterr().err
