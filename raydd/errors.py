"""One family of exceptions.

Every message is one line that says what was expected, what was got and what to do. The command line prints it
and exits with `exit_code`: 2 where the user can mend it, 1 where the cluster or the store failed, 3 where
the same would end the same.
"""

from __future__ import annotations


class RaydError(Exception):
    """Base of all errors that raydd raises on purpose."""

    exit_code = 1


class UserError(RaydError, ValueError):
    """Something the user said or gave is wrong."""

    exit_code = 2


class ConfigError(UserError):
    """A config key is unknown, of the wrong type, out of range, or impossible in combination; names the dotted key."""


class DataError(UserError):
    """A data set, shard or image is missing, malformed, or does not fit the config; names the file."""


class IntegrityError(DataError):
    """A stored file is missing, truncated or altered: its size or sha256 is not what the manifest or index says."""


class StoreError(UserError):
    """A store URL is malformed, unreachable or refuses access."""


class StoreFault(StoreError):
    """A store did not answer, or failed, as often as it was asked: not the user's mistake."""

    exit_code = 1


class RunError(UserError):
    """A run exists already, does not exist, belongs to another config, or is being written by another driver."""


class EngineError(RaydError):
    """Workers could not be had or kept, or the arithmetic failed (NaN)."""


class FinalError(EngineError):
    """Trying the same again would end the same, though nothing that was given is wrong in itself."""

    exit_code = 3


class Diverged(FinalError):
    """The arithmetic gave NaN or infinity, on every worker that was asked: trying again would give it again."""
