"""Bars on a terminal, lines elsewhere; nouns that agree with their number."""

import re
import sys

import pytest

from experiments import display
from experiments.results import markdown, verdict


@pytest.fixture
def clock(monkeypatch):
    """The clock of the bars, which passes only as a test says."""
    now = [1000.0]
    monkeypatch.setattr(display._Lines, "_time", lambda self: now[0], raising=False)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


class TestLines:
    def test_a_line_every_half_minute_and_one_at_the_end(self, capsys, clock):
        with display.progress_bar(total=100, unit="step") as bar:
            bar.set_description("rdl-seed0")
            for _ in range(100):
                clock[0] += 1
                bar.update()
        lines = capsys.readouterr().err.splitlines()
        assert [re.search(r"(\d+)/100", line)[1] for line in lines] == [
            *("30", "60", "90"),
            "100",
        ]
        assert all(line.startswith("rdl-seed0: ") for line in lines)

    def test_no_carriage_returns(self, capfd, clock):
        with display.progress_bar(total=3, unit="net") as bar:
            for i in range(3):
                clock[0] += 20
                bar.set_description(f"net {i}")
                bar.write("a message", file=sys.stderr)
                bar.update()
        said = capfd.readouterr().err
        assert said.count("a message") == 3 and "3/3" in said and "\r" not in said

    def test_a_bar_within_another_does_not_move_the_cursor(self, capsys, clock):
        with display.progress_bar(total=2), display.progress_bar(total=3) as inner:
            for _ in range(3):
                clock[0] += 40
                inner.update()
        said = capsys.readouterr().err
        assert "3/3" in said and "" not in said.splitlines()
        assert not re.search(r"[^\n\x20-\x7e\u2580-\u259f]", said)

    def test_messages_stay_between_lines(self, capsys, clock):
        with display.progress_bar(total=2) as bar:
            bar.write("a message", file=sys.stderr)
            clock[0] += 40
            bar.update()
            bar.write("another", file=sys.stderr)
        found = capsys.readouterr().err.splitlines()
        assert [line.partition("|")[0].strip() for line in found] == [
            *("a message", "50%", "another", "50%"),
        ]

    def test_a_description_adds_no_line_to_that_of_a_step(self, capsys, clock):
        with display.progress_bar(total=3) as bar:
            clock[0] += 40
            bar.set_description("plain")
            bar.update()
            clock[0] += 1
        found = capsys.readouterr().err.splitlines()
        assert [line.partition("|")[0] for line in found] == [
            "plain:   0%",
            "plain:  33%",
        ]

    def test_a_quick_bar_with_a_delay_prints_nothing(self, capsys, clock):
        for _ in display.progress_bar([1, 2, 3], delay=2):
            clock[0] += 0.5
        assert capsys.readouterr().err == ""

    def test_counts_the_items(self, capsys, clock):
        assert list(display.progress_bar("abc")) == ["a", "b", "c"]
        assert "3/3" in capsys.readouterr().err

    def test_a_terminal_has_a_bar(self, capsys, monkeypatch):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        with display.progress_bar(total=2) as bar:
            bar.update(2)
        assert "\r100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((1, "seed"), "1 seed"),
        ((5, "seed"), "5 seeds"),
        ((0, "epoch"), "0 epochs"),
        ((1000, "image"), "1,000 images"),
        ((1, "class", "classes"), "1 class"),
        ((10, "class", "classes"), "10 classes"),
    ],
)
def test_count_of(words, expected):
    assert display.count_of(*words) == expected


def summary(*, epochs: int, seeds: int) -> dict:
    """What the head and the sentence of a run's table read."""
    errors = {"mean": 5.0, "values": [5.0] * seeds}
    return {
        "config": {
            "teacher": "mlp",
            "student": "mlp",
            "teacher_epochs": epochs,
            "epochs": epochs,
            "seeds": seeds,
            "distance": "MeanSquared",
            "layers": ["logits"],
        },
        "data": "digits",
        "teacher": {"test_error": 3.0},
        "baseline": "plain",
        "methods": {
            "plain": {"test_error": errors},
            "rdl": {"test_error": errors, "difference": {"low": -1.0, "high": 1.0}},
        },
    }


def test_the_head_of_a_table_counts_in_words():
    one = markdown._head(summary(epochs=1, seeds=1))
    assert "after 1 epoch." in one and "mlp: 1 epoch, 1 seed." in one
    several = markdown._head(summary(epochs=2, seeds=3))
    assert "after 2 epochs." in several and "mlp: 2 epochs, 3 seeds." in several
    assert verdict.sentence(summary(epochs=1, seeds=3)).endswith("over 3 seeds.")
