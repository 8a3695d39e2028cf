"""Errors that a user can mend."""

from __future__ import annotations


class ConfigurationError(ValueError):
    """What was asked for cannot be run; the message says what was received, what is allowed and what to set."""


class DivergenceError(RuntimeError):
    """Training has stopped because the losses are no longer finite; the last good state has been saved."""
