"""One set scored as one request."""

from __future__ import annotations

from typing import Any

from raydd.distilled import DistilledSet
from raydd.evaluate import Accuracy, Request, evaluate_all

OF_REQUEST = ("protocol", "nets", "baselines", "coresets", "predictors")


def evaluate(ds: DistilledSet, **options: Any) -> list[Accuracy]:
    """Return the accuracies of one set, given what `Request` and `evaluate_all` take."""
    asked = {key: options.pop(key) for key in OF_REQUEST if key in options}
    return evaluate_all([Request(ds=ds, **asked)], **options)
