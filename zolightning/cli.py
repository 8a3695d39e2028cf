"""The command line: LightningCLI with the package's callbacks, run folders and error messages."""

from __future__ import annotations

import errno
import inspect
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from zolightning import __version__, callbacks
from zolightning.errors import ConfigurationError, DivergenceError, configuration_error_behind
from zolightning.finetuner import FineTuner
from zolightning.journal import read
from zolightning.runs import check_writable, is_journal, resolve_checkpoint, version_of
from zolightning.suggestions import suggest
from zolightning.tasks import Task
from zolightning.trainers import callbacks_of

# A full disk, a quota, a limit of a process.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_DESCRIPTION = "Fine-tuning of language models with forward passes only, from one YAML file."

_ALWAYS = {
    "checkpoint": callbacks.BestCheckpoint,
    "last_checkpoint": callbacks.LastCheckpoint,
    "journal": callbacks.Journal,
    "memory": callbacks.MemoryProfiler,
    "throughput": callbacks.Throughput,
    "export": callbacks.Export,
    # Last, since its file says that a run is complete.
    "scoreboard": callbacks.Scoreboard,
    "predictions": callbacks.PredictionWriter,
}


class Parser(LightningArgumentParser):
    """Says what is wrong in a line or two, and shows a class's whole docstring in its help."""

    @override
    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> list[str]:
        if str(self.description).startswith("Help for "):  # What jsonargparse calls the parser of --*.help.
            text = (inspect.getdoc(theclass) or "").split("\nArgs:")[0].strip()
            self.description = f"{theclass.__name__}: {text}"
        added: list[str] = super().add_class_arguments(theclass, *args, **kwargs)
        return added

    @override
    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        mendable = None if ex is None else configuration_error_behind(ex)
        raise ConfigurationError(suggest(message) if mendable is None else str(mendable)) from ex


class SaveConfig(SaveConfigCallback):
    """Saves the run's full configuration as config.yaml in its folder, and as text in TensorBoard."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save under the command's name: testing a run must not overwrite what it was trained with."""
        self.config_filename = "config.yaml" if stage == "fit" else f"config_{TrainerFn(stage).value}.yaml"
        super().setup(trainer, pl_module, stage)

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        text = self.parser.dump(self.config, skip_none=False)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("config", f"```yaml\n{text}\n```")


class CLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict` of a FineTuner on a Task."""

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults(
            {
                "trainer.default_root_dir": "runs",
                "trainer.num_sanity_val_steps": 0,
                "trainer.enable_model_summary": False,
            }
        )
        for name, callback in _ALWAYS.items():
            parser.add_lightning_class_args(callback, name)

    @override
    def _parse_ckpt_path(self) -> None:
        """Find the checkpoint. Its hyperparameters stay where they are: flags and YAML say how a run goes on."""
        config = self._settings()
        self._journal: Path | None = None
        if config.get("ckpt_path") is None:
            return
        path = resolve_checkpoint(config["ckpt_path"], self._root(), config["trainer"]["logger"] is not False)
        if is_journal(path):
            self._journal = path
        config["ckpt_path"] = None if is_journal(path) else str(path)

    @override
    def before_instantiate_classes(self) -> None:
        """Refuse a folder that nothing can be written to, before anything is loaded."""
        if self.config["subcommand"] == "fit":
            check_writable(self._root())

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self._settings()
        if settings["trainer"]["logger"] in (None, True):
            checkpoint, root = self._journal or settings.get("ckpt_path"), self._root()
            version = None if checkpoint is None else version_of(Path(checkpoint), root)
            kwargs["logger"] = TensorBoardLogger(root, name="", version=version)
        if settings["trainer"]["enable_progress_bar"] in (None, True):
            chosen = self.config_init[self.config_init["subcommand"]]["trainer"]["callbacks"] or []
            kwargs["callbacks"] = [*(chosen if isinstance(chosen, list) else [chosen]), callbacks.Progress()]
        if settings["trainer"]["enable_checkpointing"] is False:
            parser = self._parser(self.subcommand)
            parser.callback_keys = [key for key in parser.callback_keys if not key.endswith("checkpoint")]
        return super().instantiate_trainer(**kwargs)

    @override
    def after_instantiate_classes(self) -> None:
        """Let the trainer know of the checkpoint from the beginning, and a journal stand for one.

        Raises:
            ConfigurationError: if a run is to go on from a journal that is not of its folder, or without one.
        """
        settings = self.config_init[self.config["subcommand"]]
        if settings.get("ckpt_path") is not None:
            # Handed to `fit`, it would be known to nothing that is set up before it is loaded.
            self.trainer.ckpt_path, settings["ckpt_path"] = settings["ckpt_path"], None
        if self._journal is None:
            return
        keeper = callbacks_of(self.trainer, callbacks.Journal)[0]
        keeper.source = self._journal
        # Of what an adapter draws, and in a run that goes on of directions and batches.
        self.model.seed = read(self._journal).header["seed"]
        if self.config["subcommand"] != "fit":
            return
        if not keeper.enabled:
            raise ConfigurationError(
                f"ckpt_path: there is no checkpoint but {self._journal} to go on from, and journal.enabled is false: "
                "set it to true, or leave ckpt_path out"
            )
        folder, logger = self._journal.parent, self._settings()["trainer"]["logger"]
        if logger in (None, True) and version_of(self._journal, self._root()) is None:
            where = f"the folder that {folder} is in"
        elif logger is False and folder.resolve() != self._root().resolve():
            where = str(folder)
        else:
            return
        raise ConfigurationError(
            f"ckpt_path: a run goes on from its journal in its own folder: set trainer.default_root_dir to {where}"
        )

    def _settings(self) -> Namespace:
        settings = self.config[self.config["subcommand"]]
        assert isinstance(settings, Namespace)
        return settings

    def _root(self) -> Path:
        return Path(self._settings()["trainer"]["default_root_dir"])


def main(args: ArgsType = None) -> None:
    """Run a command line; what a user can mend ends with a message and exit status 2, divergence with 3, SIGTERM 143.

    Args:
        args: the words of the command line; None takes sys.argv.
    """
    _quieten()
    if os.getcwd() not in sys.path:  # So that a user's own classes are found from the console script, as with -m.
        sys.path.insert(0, os.getcwd())
    try:
        CLI(
            FineTuner,
            Task,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={"prog": "zolightning", "version": __version__, "description": _DESCRIPTION},
            args=args,
        )
    except DivergenceError as error:
        print(f"zolightning: stopped: {error}", file=sys.stderr)
        raise SystemExit(3) from error
    except SIGTERMException as error:
        print("zolightning: stopped by SIGTERM", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM) from error
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        print(f"zolightning: error: {error}: make room, then go on with --ckpt_path last", file=sys.stderr)
        raise SystemExit(2) from error
    except ValueError as error:
        if (mendable := configuration_error_behind(error)) is None:
            raise
        print(f"zolightning: error: {mendable}", file=sys.stderr)
        raise SystemExit(2) from error


def _is_no_tip(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


def _quieten() -> None:
    """Silence warnings that users can do nothing about."""
    # Lightning calls what jsonargparse 5 will remove: https://github.com/Lightning-AI/pytorch-lightning/pull/21906
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    # Lightning reads a name that PyTorch 2.13 deprecates.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    # Advertisements for other products are not news of this run.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_tip)
    # Zeroth-order probes want dropout off: https://github.com/Lightning-AI/pytorch-lightning/issues/20105
    warnings.filterwarnings("ignore", message="Found .* module\\(s\\) in eval mode")
    # Steps are counted over the run, not the epoch.
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")
    # A resumed run goes on in its folder.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # Predictions are written in the loader's order.
    warnings.filterwarnings("ignore", message="Couldn't infer the batch indices")
    # main(args) is how tests and notebooks call it.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    # What is logged at the end of an epoch has been computed of all processes' sums.
    warnings.filterwarnings("ignore", message="It is recommended to use .* when logging on epoch level")
    # The data is tokenised before training starts, so loading it takes no time that workers could save.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
