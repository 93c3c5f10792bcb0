"""Keys of a store stay where they are: Tune would send them along, to where Ray logs them."""

from __future__ import annotations

import pytest
from ray.tune.execution.class_cache import _ActorClassCache

from raydd.sweep.tuning import SECRETS, _quiet


class Trainable:
    """Whatever runs."""


def test_tune_sends_no_keys_along(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "hush")
    with _quiet():
        options = _ActorClassCache().get(Trainable)._default_options
    assert options["runtime_env"]["env_vars"]["RAY_CHDIR_TO_TRIAL_DIR"] == "0"
    assert "hush" not in str(options)
