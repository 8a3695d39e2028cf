"""The command line's parser, built once: it takes longer to build than to use."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest
from jsonargparse import Namespace, strip_meta
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from zolightning import cli

Parse = Callable[..., Namespace]


class Built(Exception):
    """Carries the parser out of the command line."""

    def __init__(self, parser: LightningArgumentParser) -> None:
        super().__init__()
        self.parser = parser


class Builder(cli.CLI):
    """Ends where parsing would begin."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> NoReturn:
        raise Built(parser)


@pytest.fixture(scope="session")
def parse() -> Parse:
    """Parse the words behind `fit` without making anything of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "CLI", Builder)
        with pytest.raises(Built) as built:
            cli.main(["fit"])

    def parsed(*words: str) -> Namespace:
        settings = strip_meta(built.value.parser.parse_args(["fit", *words])).fit
        assert isinstance(settings, Namespace)
        return settings

    return parsed
