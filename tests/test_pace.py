from __future__ import annotations

import pytest

from raydd import pace, terminal
from raydd.engine.coordinator import Progress
from raydd.pace import Pace
from raydd.terminal import Terminal
from raydd.text import duration, rate


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(pace.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_rate_is_that_of_late(clock: Clock) -> None:
    counted = Pace()
    assert (counted.per_second(), counted.seconds_left(10)) == (None, None)
    clock.now += 300
    counted.tell(1)
    assert counted.per_second() == pytest.approx(1 / 300)
    for done in range(2, 1001):
        clock.now += 0.1
        counted.tell(done)
    assert counted.per_second() == pytest.approx(10, rel=0.01)
    assert counted.seconds_left(2000) == pytest.approx(100, rel=0.01)
    # Nothing comes any more.
    clock.now += 3600
    stalled = counted.per_second()
    assert stalled is not None
    assert stalled < 0.02


def test_rounds_that_take_longer_than_the_window(clock: Clock) -> None:
    counted = Pace(500)
    for done in (501, 502, 503):
        clock.now += 600
        counted.tell(done)
    clock.now += 1
    assert counted.per_second() == pytest.approx(1 / 600, rel=0.01)


def test_going_back_starts_anew(clock: Clock) -> None:
    counted = Pace()
    for done in (100, 200, 50):
        clock.now += 10
        counted.tell(done)
    assert counted.per_second() is None
    clock.now += 10
    counted.tell(60)
    assert counted.per_second() == pytest.approx(1)


def test_texts() -> None:
    assert [rate(value, "rounds") for value in (123.456, 1, 0.5, 0.001)] == [
        "123 rounds/s",
        "1 rounds/s",
        "30 rounds/min",
        "3.6 rounds/h",
    ]
    assert [duration(value) for value in (4.2, 59, 185, 26000)] == ["4.2 s", "59 s", "3 min 5 s", "7 h 13 min"]


def test_a_long_log_is_short(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """A day of 100,000 rounds: a few hundred lines, each with round, loss, rate and time left."""
    shown = Terminal(bars=False)
    total = 100_000
    for done in range(1, total + 1):
        clock.now += 0.864
        shown.round(Progress(round=done, rounds=total, metrics={"loss": 1 / done}, workers=4))
    lines = capsys.readouterr().err.splitlines()
    assert 200 < len(lines) < 400
    first = [int(line.split("/")[0].split()[1]) for line in lines[:4]]
    assert first == [1, 19, 37, 55]
    assert lines[-2].startswith("distilling: 9")
    assert ", 4 workers, 1.16 rounds/s, " in lines[-2]
    assert lines[-2].endswith(" left")
    assert lines[-1] == f"distilling: {total}/{total} rounds, loss 1e-05, 4 workers, 1.16 rounds/s"


def test_a_short_log(clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal(bars=False)
    for done in range(1, 1001):
        clock.now += 0.01
        shown.round(Progress(round=done, rounds=1000, metrics={"loss": 0.5}, workers=0))
    shown.evaluating(1, 2)
    assert capsys.readouterr().err.splitlines() == [
        "distilling: 1/1000 rounds, loss 0.5",
        "distilling: 1000/1000 rounds, loss 0.5, 100 rounds/s",
        "evaluating: 1/2 networks",
    ]
    monkeypatch.setattr(terminal, "LINE_EVERY_S", 0)
    shown.evaluating(1, 2)
    assert capsys.readouterr().err == "evaluating: 1/2 networks\n"
