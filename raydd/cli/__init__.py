"""The verbs of `raydd`. Each reads its words, calls one function of the library, and prints what came of it.

Exit codes: 0 done; 2 the user's mistake, told in one line; 3 ended so that
the same would end the same again, such as NaN or a sweep's hours; 1 anything else; 130 Ctrl-C; 143 SIGTERM.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from importlib.metadata import version

# What they define is the program; `app` comes complete from here.
from raydd.cli import work  # isort: skip
from raydd.cli import sweeps  # isort: skip
from raydd.cli import facts  # isort: skip
from raydd.cli import jobs  # isort: skip
from raydd.cli import apps  # isort: skip
from raydd.cli.words import app
from raydd.errors import RaydError, UserError

__all__ = ["app", "apps", "facts", "jobs", "main", "sweeps", "work"]

_received: list[int] = []


def _on_signal(number: int, _: object) -> None:
    # Ray lets no other exception than this out of a wait.
    _received.append(number)
    raise KeyboardInterrupt


def _check_version() -> None:
    """Refuse to be the job of another version of raydd: the same config may mean something else there."""
    expected = os.environ.get("RAYDD_EXPECTED")
    if expected is not None and expected != version("raydd"):
        raise UserError(
            f"expected raydd {expected} on the cluster, which submitted this job, got {version('raydd')}; use an image with that "
            "version, or submit with this one"
        )


def main() -> None:
    """Run the command line and exit."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("raydd").setLevel(logging.INFO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)
    try:
        _check_version()
        app()
    except RaydError as error:
        sys.stderr.write(f"raydd: {error}\n")
        sys.exit(error.exit_code)
    except (SystemExit, KeyboardInterrupt):
        if not _received:
            raise
        sys.stderr.write("raydd: interrupted; the same command goes on from the last checkpoint\n")
        sys.exit(128 + _received[0])
