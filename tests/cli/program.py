"""The command line in a process of its own, forked from one that has imported torch once for all of them."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["__main__", "raydd.api", "raydd.catalogue", "raydd.doctor", "raydd.report"])
LONGEST_S = 120


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
        assert all(line.startswith(("packing: ", "distilling: ", "evaluating: ")) for line in progress), self.err
        assert self.out == ""
        return last


class Program:
    """A command that runs: its stderr may be read line by line, then `wait` for its end.

    Args:
        folder: Its working directory.
        words: Its command line without `raydd`.
    """

    def __init__(self, folder: Path, *words: object) -> None:
        self._out = folder.parent / f"{folder.name}.out"
        reader, writer = _CONTEXT.Pipe(duplex=False)
        arguments = (writer, str(self._out), str(folder), [str(word) for word in words])
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
        *out, ray = self._out.read_text().split("\0")
        return Outcome(code, "".join(out), "".join(self._read), ray == "True")


def command(folder: Path, *words: object) -> Outcome:
    """Run a command to its end."""
    return Program(folder, *words).wait()


def _run(err: Connection, out: str, folder: str, words: list[str]) -> None:
    os.dup2(err.fileno(), 2)
    os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    err.close()
    os.chdir(folder)
    sys.argv = ["raydd", *words]
    from raydd.cli import main

    try:
        main()
    finally:
        sys.stdout.write(f"\0{'ray' in sys.modules}")
