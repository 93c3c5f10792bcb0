"""The command line in a process of its own, forked from one that has imported torch once for all of them."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

_CONTEXT = multiprocessing.get_context("forkserver")
# The last one is what torch loads when it is asked for deterministic kernels.
_OURS = ["raydd.api", "raydd.catalogue", "raydd.doctor", "raydd.report", "raydd.config.template"]
_CONTEXT.set_forkserver_preload(["__main__", *_OURS, "sklearn.datasets"])
LONGEST_S = 120
PROGRESS = re.compile(r"(packing|distilling|validating|evaluating): \d+/|[\w.-]+: \d+ rounds on ")


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: Its exit code.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
        ray: Whether it had loaded Ray.
    """

    code: int
    out: str
    err: str
    ray: bool

    @property
    def facts(self) -> Any:
        """The one JSON object that stands alone on stdout."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1
        return json.loads(self.out)

    @property
    def mistake(self) -> str:
        """The one line that tells the user's mistake; before it there may be progress, and nothing comes after it."""
        assert self.code == 2, self.err
        *progress, last = self.err.splitlines()
        assert last.startswith("raydd: ")
        assert all(PROGRESS.match(line) for line in progress), self.err
        assert self.out == ""
        return last


class Program:
    """A command that runs: its stderr may be read line by line, then `wait` for its end.

    Args:
        folder: Its working directory.
        words: Its command line without `raydd`.
        every_round: Let it tell its progress as often as it may, instead of every quarter of a minute.
    """

    def __init__(self, folder: Path, *words: object, every_round: bool = False) -> None:
        handle, self._out = tempfile.mkstemp()
        os.close(handle)
        reader, writer = _CONTEXT.Pipe(duplex=False)
        arguments = (writer, self._out, str(folder), [str(word) for word in words], every_round)
        self.process = _CONTEXT.Process(target=_run, args=arguments)
        self.process.start()
        writer.close()
        self.err: TextIO = os.fdopen(os.dup(reader.fileno()))
        reader.close()
        self._read: list[str] = []

    def lines(self) -> Iterator[str]:
        """Yield what it writes to stderr, a line at a time."""
        for line in self.err:
            self._read.append(line)
            yield line

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self) -> Outcome:
        """Return how it ended."""
        for _ in self.lines():
            pass
        self.err.close()
        self.process.join(LONGEST_S)
        code = self.process.exitcode
        assert code is not None, "it still runs"
        self.process.close()
        out, _, ray = Path(self._out).read_text().partition("\0")
        os.unlink(self._out)
        return Outcome(code, out, "".join(self._read), ray == "True")


def command(folder: Path, *words: object) -> Outcome:
    """Run a command to its end."""
    return Program(folder, *words).wait()


def _run(err: Connection, out: str, folder: str, words: list[str], every_round: bool) -> None:
    os.dup2(err.fileno(), 2)
    os.dup2(os.open(out, os.O_WRONLY), 1)
    err.close()
    os.chdir(folder)
    sys.argv = ["raydd", *words]
    from raydd import terminal
    from raydd.cli import main

    if every_round:
        terminal.LINE_EVERY_S = 0
    try:
        main()
    finally:
        sys.stdout.write(f"\0{'ray' in sys.modules}")
