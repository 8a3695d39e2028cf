"""Errors that a user can mend."""

from __future__ import annotations

from collections.abc import Sequence


class ConfigurationError(ValueError):
    """What was asked for cannot be run; the message says what was received, what is allowed and what to set."""


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value that is none of those allowed.

    Raises:
        ConfigurationError: naming the setting, what it may be and what it is.
    """
    if value not in allowed:
        raise ConfigurationError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


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
