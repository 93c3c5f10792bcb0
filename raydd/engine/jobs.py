"""raydd's verbs as Ray jobs: submitted with what they need, followed, and submitted again when the cluster fails them.

A job ships the YAML files that it is given, and nothing else: raydd itself is part of the cluster's image. Secrets never travel;
of the store's settings only names do. A job that is submitted again goes on from its run's last checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from raydd.engine.cluster import forwarded
from raydd.errors import EngineError, UserError

ADDRESS = "http://127.0.0.1:8265"
POLL_S = 2.0
# Of which version of raydd a job was submitted; the command line compares it with its own.
EXPECTED = "RAYDD_EXPECTED"
# The cluster may be out of reach for so long while its job is followed; the job goes on meanwhile.
PATIENCE_S = 600.0
# What raydd's own exit codes say: the user's mistake, what would end the same again, interrupted, stopped.
FINAL = (2, 3, 130, 143)
# As Ray's client words that the cluster has no such job.
_GONE = "Request failed with status code 404"
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9._-]+")
_log = logging.getLogger("raydd")
_T = TypeVar("_T")


class NoJobError(UserError):
    """The cluster has no job of this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """A job as the cluster has it.

    Attributes:
        id: Its submission id.
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        exit_code: The driver's; None while it runs, or where it was never started or lost.
        message: What Ray says of it, one line.
        started: Seconds since 1970; None where it did not.
        ended: Likewise.
        command: What it runs.
    """

    id: str
    status: str
    exit_code: int | None
    message: str
    started: float | None
    ended: float | None
    command: str

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


class Jobs:
    """The jobs of one cluster.

    Args:
        address: URL of its dashboard; None: RAY_API_SERVER_ADDRESS, else this machine's.

    Raises:
        UserError: When the address or the token is wrong.
        EngineError: When the cluster does not answer.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = (address or os.environ.get("RAY_API_SERVER_ADDRESS") or ADDRESS).rstrip("/")
        if urlsplit(self.address).scheme not in ("http", "https"):
            raise UserError(f"--address must be a dashboard's URL such as {ADDRESS}, got {self.address!r}")
        _use_token()
        # Ray's client listens to this, and to RAY_ADDRESS, before it listens to us.
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address
        from ray.job_submission import JobSubmissionClient

        # What it uploads, and when it hangs up, is of no interest to anyone.
        logging.getLogger("ray").setLevel(logging.WARNING)
        with self._told():
            self.client = JobSubmissionClient(self.address)

    def submit(self, name: str, words: Sequence[str], python: str | None = None) -> str:
        """Submit a verb; return the job's submission id, `name-a0` or the next attempt that is free.

        Args:
            name: What it is about, such as the run's name.
            words: The command line after `raydd`; YAML files of this machine among them are taken along.
            python: The interpreter on the cluster; None: the one in use here if the cluster has it at the same path, else
                the first `python` on the path of whoever started Ray there.
        """
        from importlib.metadata import version

        taken = {job.id for job in self.list()}
        stem = _NOT_IN_IDS.sub("-", name)
        attempt = next(n for n in range(len(taken) + 1) if f"{stem}-a{n}" not in taken)
        with tempfile.TemporaryDirectory() as folder:
            words = list(take_along(words, Path(folder)))
            chosen = shlex.quote(python) if python else f'"$(command -v {shlex.quote(sys.executable)} || echo python)"'
            with self._told():
                return self.client.submit_job(
                    entrypoint=f"exec {chosen} -m {shlex.join(('raydd', *words))}",
                    submission_id=f"{stem}-a{attempt}",
                    runtime_env={"working_dir": folder, "env_vars": {**forwarded(), EXPECTED: version("raydd")}},
                    metadata={"raydd": version("raydd"), "verb": words[0]},
                )

    def list(self) -> list[JobState]:
        """Return all jobs that were submitted, the newest first."""
        with self._told():
            found = [_state(job) for job in self.client.list_jobs() if job is not None and job.submission_id]
        return sorted(found, key=lambda job: job.started or 0.0, reverse=True)

    def state(self, id: str) -> JobState:
        """Return how a job is.

        Raises:
            NoJobError: When there is none of this name.
        """
        with self._told(id):
            return _state(self.client.get_job_info(id))

    def logs(self, id: str) -> str:
        """Return what a job has printed so far."""
        with self._told(id):
            return self.client.get_job_logs(id)

    def follow(self, id: str, say: Callable[[str], None]) -> JobState:
        """Hand on what a job prints until it has ended; return how it ended.

        Raises:
            NoJobError: When there is none of this name.
            EngineError: When the cluster cannot be reached for ten minutes.
        """
        said = 0

        def count(text: str) -> None:
            nonlocal said
            said += len(text)
            say(text)

        def ask() -> JobState:
            state = self.state(id)
            try:
                self._follow_once(id, said, count)
            except EngineError:
                # A connection may break; whether the cluster is out of reach is told by its next answer.
                if state.over:
                    raise
            return state

        while not (state := _patiently(ask, "the job does not need us")).over:
            time.sleep(POLL_S)
        return state

    def _follow_once(self, id: str, said: int, say: Callable[[str], None]) -> None:
        """Hand on what is printed until the connection ends; skip what was said before."""

        async def tail() -> None:
            seen = 0
            async for text in self.client.tail_job_logs(id):
                say(text[max(0, said - seen) :])
                seen += len(text)

        # Nothing is printed before the job has begun.
        with suppress(NoJobError), self._told(id):
            asyncio.run(tail())

    def cancel(self, id: str) -> bool:
        """Stop a job: its driver leaves the last checkpoint; return whether there was anything to stop."""
        if self.state(id).over:
            return False
        with self._told(id):
            return bool(self.client.stop_job(id))

    @contextmanager
    def _told(self, id: str = "") -> Iterator[None]:
        """Turn what Ray's client raises into one clear line."""
        from aiohttp import ClientError
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise UserError(
                f"{self.address} expected a token that it knows, got {'another' if _token() else 'none'}; set RAY_AUTH_TOKEN, "
                "or RAY_AUTH_TOKEN_PATH to a file that holds it (`ray get-auth-token` on the cluster prints it)"
            ) from error
        except (ConnectionError, OSError) as error:
            raise EngineError(
                f"expected a Ray cluster at {self.address}, got no answer; start it, forward its port 8265, or give --address"
            ) from error
        # The second is of logs that are followed, as where a proxy lets no websocket through.
        except (RuntimeError, ClientError) as error:
            text = " ".join(str(error).split())[:300]
            if id and text.startswith(_GONE):
                raise NoJobError(f"expected a job named {id} at {self.address}, got none; see `raydd jobs`") from error
            raise EngineError(f"{self.address} refused: {text}") from error


def run_job(
    jobs: Jobs, name: str, words: Sequence[str], *, retries: int, python: str | None, say: Callable[[str], None]
) -> JobState:
    """Submit a verb and wait for it, again where the cluster failed it; return how the last job ended, always with an exit code.

    Args:
        jobs: The cluster's jobs.
        name: What it is about.
        words: The command line after `raydd`.
        retries: How often it is submitted again at most.
        python: See `Jobs.submit`.
        say: Takes what the job prints.

    Raises:
        RaydError: See `Jobs`.
    """
    id = jobs.submit(name, words, python)
    for left in range(retries, -1, -1):
        _log.info("submitted %s to %s", id, jobs.address)
        state = _followed(jobs, id, say)
        if state.status == "SUCCEEDED":
            return replace(state, exit_code=0)
        if state.status == "STOPPED" or state.exit_code in FINAL or not left:
            _log.error("%s: %s (%s)", id, state.status.lower(), state.message)
            return replace(state, exit_code=state.exit_code or (143 if state.status == "STOPPED" else 1))
        _log.warning("%s failed (%s); submitting it again, %d more times at most", id, state.message, left)
        id = _patiently(lambda: jobs.submit(name, _again(words), python), "to submit it again")
    raise AssertionError("unreachable")


def _followed(jobs: Jobs, id: str, say: Callable[[str], None]) -> JobState:
    """Follow a job that was submitted: a head that has started anew has forgotten it, which the cluster is to blame for."""
    try:
        return jobs.follow(id, say)
    except NoJobError:
        gone = "the cluster has forgotten it"
        return JobState(id=id, status="FAILED", exit_code=None, message=gone, started=None, ended=None, command="")


def _again(words: Sequence[str]) -> list[str]:
    """Return the words for another attempt: the first one has made the run, so that `--resume never` would refuse it."""
    never = "--resume=never" in words or ("--resume", "never") in pairwise(words)
    # The last one counts.
    return [*words, "--resume=auto"] if never else list(words)


def _patiently(ask: Callable[[], _T], why: str) -> _T:
    """Return what a cluster answers, which may be out of reach for ten minutes.

    Raises:
        EngineError: When it is for longer.
    """
    since = None
    while True:
        try:
            return ask()
        except EngineError as error:
            since = since or time.monotonic()
            if time.monotonic() - since > PATIENCE_S:
                raise
            _log.warning("%s; trying on, %s", error, why)
        time.sleep(POLL_S)


def take_along(words: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield words with the YAML files of this machine among them copied into a folder and named as they are there.

    Raises:
        UserError: When two have one name.
    """
    for word in words:
        path = Path(word)
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            yield word
        elif (folder / path.name).exists():
            raise UserError(f"a job's files must have names of their own, got two named {path.name}; rename one")
        else:
            shutil.copy(path, folder / path.name)
            yield path.name


def _state(job: Any) -> JobState:
    # Ray adds the last lines of the log, which `raydd logs` shows.
    message = " ".join((job.message or "").partition(", last available logs")[0].split())
    return JobState(
        id=job.submission_id,
        status=str(job.status.value if hasattr(job.status, "value") else job.status),
        exit_code=job.driver_exit_code,
        message=message[:300],
        started=job.start_time / 1000 if job.start_time else None,
        ended=job.end_time / 1000 if job.end_time else None,
        command=job.entrypoint.partition(" -m ")[2] or job.entrypoint,
    )


def _token() -> bool:
    """Whether this machine has a token to show."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or file.is_file()


def _use_token() -> None:
    """Let Ray show its token wherever there is one; it reads this when it is imported."""
    if _token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
