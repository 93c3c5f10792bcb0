from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier

import raydd.apps.privacy as privacy
from raydd.apps import run_application
from raydd.apps.attackers import ATTACKERS, attack
from raydd.apps.privacy import losses
from raydd.config import APPS, validate
from raydd.data.index import load_index
from raydd.errors import ConfigError
from raydd.evaluate import PROTOCOLS
from raydd.store import Folder
from raydd.watchers import Silent
from tests.apps.interrupted import Stopped, counted


def says(seed: int, count: int, shift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    gen = np.random.default_rng(seed)
    return gen.normal(shift, 1, (count, 3)), gen.normal(shift, 1, count), np.arange(count) % 3


def test_a_threshold_on_the_loss_by_hand() -> None:
    """Of four pairs of a member and another, the member's loss is the lower one in three."""
    logits, labels = np.zeros((2, 2)), np.array([0, 1])
    members, others = (logits, np.array([1.0, 2.0]), labels), (logits, np.array([1.5, 3.0]), labels)
    assert attack(members, others, 0)["threshold"] == 0.75


def test_every_attacker_sees_what_can_be_seen_and_nothing_else() -> None:
    told = attack(says(0, 80, -4), says(1, 80, 4), 0)
    assert list(told) == list(ATTACKERS)
    assert min(told.values()) > 0.99
    blind = attack(says(0, 400, 0), says(1, 400, 0), 0)
    assert max(blind.values()) < 0.62
    assert min(blind.values()) > 0.38


def test_attackers_repeat_to_the_bit_and_depend_on_their_seed() -> None:
    sides = says(0, 60, -0.3), says(1, 60, 0.3)
    assert attack(*sides, 1) == attack(*sides, 1)
    other = attack(*sides, 2)
    assert other["threshold"] == attack(*sides, 1)["threshold"]
    assert all(other[name] != attack(*sides, 1)[name] for name in ("logistic regression", "mlp", "random forest"))


def test_an_interrupt_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MLPClassifier, "_backprop", pressed)
    with pytest.raises(KeyboardInterrupt):
        attack(says(0, 40, -1), says(1, 40, 1), 0)


def test_an_attacker_is_never_scored_on_what_it_learned_from() -> None:
    """A forest that has seen a label's noise would reach 1 on it: labels are drawn, so nothing can be told."""
    gen = np.random.default_rng(5)
    logits, loss, labels = gen.normal(size=(600, 4)), gen.normal(size=600), gen.integers(0, 4, 600)
    found = attack((logits[:300], loss[:300], labels[:300]), (logits[300:], loss[300:], labels[300:]), 3)
    assert 0.4 < found["random forest"] < 0.6


def test_losses_are_those_of_the_training() -> None:
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])
    expected = torch.log1p(torch.exp(torch.tensor([-1.0, 2.0])))
    torch.testing.assert_close(losses(PROTOCOLS["dsa"], logits, labels), expected)
    # Against (0.5, -0.5): (0.5^2 + 0.5^2) / 2 and (0.5^2 + 2.5^2) / 2.
    torch.testing.assert_close(losses(PROTOCOLS["frepo"], logits, labels), torch.tensor([0.25, 3.25]))


def config(tmp_path: Path, **app: Any) -> Any:
    raw = {
        "name": "p",
        "data": {"train": "digits", "classes": [7, 2, 5]},
        "net": {"width": 4, "depth": 1},
        "methods": [{"name": "random", "ipc": 2}],
        "engine": {"workers": 0},
        "store": str(tmp_path),
        "evaluate": {"protocol": "dsa", "nets": ["mlp"], "repeats": 1, "baselines": ["random", "whole"]},
        "app": {"members": 140, "chunks": 2, "updates": [1, 12], "batch": 32, **app},
    }
    return validate(APPS["privacy"], raw, where="test")


def test_an_application_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        seen = counted(patch, privacy, "attacked", stop_after=4)
        with pytest.raises(Stopped):
            run_application("privacy", config(tmp_path / "a"), "auto", Silent())
        assert len(seen()) == 4
    with monkeypatch.context() as patch:
        rest = counted(patch, privacy, "attacked")
        done = run_application("privacy", config(tmp_path / "a"), "auto", Silent())
        # Two chunks, three arms: the four that were finished are not done again.
        assert [item.of for item in rest()] == ["random", "whole"]
    whole = run_application("privacy", config(tmp_path / "b"), "auto", Silent())
    assert whole.findings == done.findings
    check_findings(done.findings)
    page = Path(done.report).read_text()
    assert "Attackers after 12 updates" in page
    assert "random, as many images" in page
    for k in range(2):
        counts = load_index(Folder(f"{tmp_path}/a/p/data/chunk{k}")).counts
        assert 140 <= counts.sum() <= 145 * 2
        assert np.ptp(counts) <= 3
        assert f"{counts.sum():,}" in done.findings["lead"]


def test_a_whole_chunk_counts_once_for_all_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = config(tmp_path, chunks=1, updates=[2])
    two = [{"name": "random", "ipc": ipc} for ipc in (2, 3)]
    raw = {**wanted.model_dump(), "methods": two, "evaluate": {**wanted.evaluate.model_dump(), "repeats": 2}}
    seen = counted(monkeypatch, privacy, "attacked")
    found = run_application("privacy", validate(APPS["privacy"], raw, where="test"), "auto", Silent()).findings
    assert [row[0] for row in found["grids"][0]["rows"]] == [
        "random, ipc 2",
        "random, as many images, beside random, ipc 2",
        "whole chunk",
        "random, ipc 3",
        "random, as many images, beside random, ipc 3",
    ]
    assert [item.of for item in seen()].count("whole") == 2


def check_findings(findings: dict[str, Any]) -> None:
    first, second = findings["grids"]
    assert [row[0] for row in first["rows"]] == ["random, ipc 2", "random, as many images", "whole chunk"]
    assert [row[1] for row in first["rows"]][:2] == [6, 6]
    assert first["rows"][0][-1] is None
    # The loss of the whole chunk is the threshold's but for the members that are left out for balance.
    threshold, own = first["rows"][2][2], first["rows"][2][-1]
    assert abs(threshold[0] - own[0]) < 0.1
    arms = findings["values"]["arms"]
    assert arms["whole chunk"]["accuracy"][1][0] > arms["whole chunk"]["accuracy"][0][0]
    assert len(findings["figures"]) == len(ATTACKERS) + 1
    assert second["columns"][1:] == ["1 updates", "12 updates"] or second["columns"][1:] == ("1 updates", "12 updates")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"app": {"updates": [4, 2]}}, "app.updates must be ascending, each number once, got [4, 2]"),
        (
            {"evaluate": {"baselines": ["herding"]}},
            "evaluate.baselines must be out of random, random@bytes, whole here",
        ),
        ({"evaluate": {"protocol": "fair"}}, "evaluate.protocol must say one rate and one augmentation here, got fair"),
        ({"methods": [{"name": "dm"}, {"name": "dd"}]}, "learned with a set, got dd for methods.1 (dd); set it to dsa"),
        ({"evaluate": {"repeats": 0}}, "evaluate.repeats must be >= 1 here, got 0"),
        ({"app": {"kind": "classes"}}, "app.kind"),
    ],
)
def test_wrong_configs_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    raw = {"name": "p", "data": {"train": "digits"}, "methods": [{"name": "dm"}], **change}
    with pytest.raises(ConfigError) as caught:
        validate(APPS["privacy"], raw, where="test")
    assert message in str(caught.value)


def test_more_members_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^app.chunks times app.members must be <= the training images \(\d+\), got 2"
    ):
        run_application("privacy", config(tmp_path, members=400), "auto", Silent())
