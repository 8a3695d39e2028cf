"""Errors that a user can mend."""

from __future__ import annotations


class ConfigurationError(ValueError):
    """What was asked for cannot be run; the message says what was received, what is allowed and what to set."""


def configuration_error_behind(error: BaseException) -> ConfigurationError | None:
    """Return the ConfigurationError that an exception was raised from, however many libraries wrapped it, or None."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ConfigurationError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


class DivergenceError(RuntimeError):
    """Training has stopped because the losses are no longer finite; the last good state has been saved."""
