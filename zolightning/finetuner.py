"""The LightningModule: manual optimisation, one training step for every strategy, and the evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from zolightning import resume
from zolightning.checks import check_objective_fits, check_trainer
from zolightning.closures import BatchLoss
from zolightning.distributed import Termination
from zolightning.distributed.loading import load_on
from zolightning.divergence import stop_if_diverged
from zolightning.errors import ConfigurationError, check_choice
from zolightning.evaluation import Evaluation
from zolightning.models import loading
from zolightning.models.adapters import Adapter
from zolightning.models.loading import Attention, Dtype
from zolightning.models.schemes import Scheme, SchemeName
from zolightning.optim.ranks import Ranks
from zolightning.optim.recipe import Recipe
from zolightning.optim.together import RankUse, train_together
from zolightning.phases import phase
from zolightning.strategies.base import Strategy, logged
from zolightning.tasks import Task
from zolightning.trainers import logs_now, task_of, validate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from zolightning.models.batch import OptionBatch


class FineTuner(LightningModule):
    """Fine-tunes a causal or masked language model on a task by a strategy.

    After a `fit` whose Trainer has a `BestCheckpoint` callback, as on the command line, the module holds the weights
    that were best on dev; the last ones are in `last.ckpt`.

    Args:
        backbone: hub id or folder of a causal or masked language model in Hugging Face format; `sample` is a small one
            inside this package.
        strategy: how the weights move.
        dtype: of the weights. Losses are float32 whatever it is.
        scheme: which parameters train: `full` all of them, `bias_only` the biases, `head` the output head, `lora`
            low-rank adapters, `prefix` keys and values in front of each layer's, `prompt` embeddings in front of the
            text's; or an adapter with settings of its own, such as `class_path: LoRA` with `init_args: {r: 16}`.
        layers: with the schemes full and bias_only, the only transformer blocks that train, by number from 0; null for
            the whole model.
        attention: the attention implementation.
        bos: the token that begins every text; null for the tokenizer's own. OPT's is `</s>`, with which it was trained;
            MeZO's code takes `<s>`.
        micro_batch_size: examples a forward, for batches that do not fit in memory; null for the whole batch, or a
            process' part of it.
        lr_scheduler: a learning rate scheduler of torch by class name, stepped each step; null for a constant rate.
        seed: determines the directions and the order of batches; null takes the run's `seed_everything`.
        ranks: what several processes share. `data`: each takes its part of every batch, and all go by the loss of the
            whole batch. `queries`: each probes its part of the strategy's num_queries, on its part of the batch.

    Raises:
        ConfigurationError: if micro_batch_size is below 1, or scheme and layers do not go together.

    Example::

        from lightning import Trainer
        from zolightning import FineTuner
        from zolightning.strategies import SparseMeZO
        from zolightning.tasks import SampleReviews

        module = FineTuner(backbone="sample", strategy=SparseMeZO(lr=1e-3, eps=1e-3, keep_ratio=0.2))
        Trainer(max_steps=1000).fit(module, datamodule=SampleReviews(batch_size=32))
    """

    def __init__(
        self,
        backbone: str,
        strategy: Strategy,
        dtype: Dtype = "float32",
        scheme: SchemeName | Adapter = "full",
        layers: list[int] | None = None,
        attention: Attention = "sdpa",
        bos: str | None = None,
        micro_batch_size: int | None = None,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        seed: int | None = None,
        ranks: RankUse = "data",
    ) -> None:
        super().__init__()
        if micro_batch_size is not None and micro_batch_size < 1:
            raise ConfigurationError(f"micro_batch_size must be at least 1, or null, got {micro_batch_size}")
        self.automatic_optimization = False
        self.scheme = Scheme(scheme, layers)
        self.strict_loading = self.scheme.whole
        self.backbone, self.bos, self.seed = backbone, bos, seed
        self.strategy = strategy
        self.strategy_settings = resume.strategy_settings(strategy)
        self.dtype_name: Dtype = dtype
        self.attention: Attention = attention
        self.micro_batch_size = micro_batch_size
        self.lr_scheduler = lr_scheduler
        check_choice("ranks", ranks, get_args(RankUse))
        self.use_of_ranks: RankUse = ranks
        self.model: nn.Module | None = None
        self.forward_passes = 0
        self._recipe: Recipe | None = None
        self._resumed: dict[str, Any] | None = None
        self._validated_at = -1
        self._settled: Literal["best", "last"] | None = None
        self._evaluation: Evaluation | None = None

    # Set-up

    @override
    def configure_callbacks(self) -> list[Callback]:
        """Check the Trainer: this is the first that Lightning asks of a module, before its own, less helpful checks."""
        check_trainer(self.trainer)
        return [Termination()] if self.trainer.world_size > 1 else []

    @override
    def setup(self, stage: str) -> None:
        """Let the task tokenise its examples; nothing large has been loaded yet, so bad input is found early."""
        self.forward_passes, self._validated_at, self._resumed, self._settled = 0, -1, None, None
        check_objective_fits(self.strategy, self.task)
        if self.processes.size > 1:
            # Each may have drawn its own, and would take steps of its own.
            self.seed = self.trainer.strategy.broadcast(self.run_seed)
        config = loading.load_config(self.backbone)
        self.scheme.check(config)
        room, cloze = self.scheme.room(config), loading.is_masked(config)
        self.task.connect(self.tokenizer(), room, seed=self.run_seed, cloze=cloze)
        self._evaluation = Evaluation(self.task, self.processes)
        resume.foresee(self)

    @override
    def configure_model(self) -> None:
        """Load the backbone, and let the task suit its batches to it; Lightning calls this for each stage."""
        if self.model is None:
            with phase("load"):
                where, made = self.trainer.strategy, (self.backbone, self.dtype_name, self.attention, self.scheme)
                self.model = load_on(where, *made, seed=self.run_seed)
            self.strategy.setup(self.model)
        self.task.adapt(self.model)

    @override
    def configure_optimizers(self) -> Any:
        optimizer = self.strategy.configure_optimizer(self.network, self.run_seed)
        train_together(optimizer, self.processes, self.use_of_ranks)
        scheduler = None if self.lr_scheduler is None else self.lr_scheduler(optimizer)
        self._recipe = Recipe(optimizer, scheduler)
        schedule = {} if scheduler is None else {"lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        return {"optimizer": optimizer, **schedule}

    @property
    def network(self) -> nn.Module:
        """The language model, once `configure_model` has loaded it."""
        if self.model is None:
            raise RuntimeError("the model is loaded by configure_model(), which a Trainer calls")
        return self.model

    @property
    def task(self) -> Task:
        """The task, which the Trainer was given as its datamodule; raises as `task_of` does."""
        return task_of(self.trainer)

    @property
    def run_seed(self) -> int:
        """The seed of directions and batches: `seed`, or what the global generator was last seeded with."""
        return torch.initial_seed() if self.seed is None else self.seed

    @property
    def processes(self) -> Ranks:
        """This process among those of its Trainer."""
        return Ranks(self.trainer.global_rank, self.trainer.world_size)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the backbone's tokenizer."""
        return loading.load_tokenizer(self.backbone, self.bos)

    # Training

    @override
    def on_fit_start(self) -> None:
        """Let the strategy see that it suits the model, on two examples and before anything that takes long."""
        closure = BatchLoss(self.task, self.network, self.task.few().to(self.device), self.micro_batch_size)
        self.strategy.check(self.trainer.optimizers[0], closure)

    def reassert_recipe(self) -> None:
        """Let what the recipe has changed win over the checkpoint that the run goes on from, once.

        Callbacks start before the module: one that reads the optimizer's settings there calls this first.
        """
        if self._recipe is not None and self._resumed is not None:
            self._recipe.reassert(self._resumed, self.global_step)
            self._resumed = None

    @override
    def on_train_start(self) -> None:
        self.reassert_recipe()
        self.strategy.on_train_start(self)

    @override
    def training_step(self, batch: OptionBatch, batch_idx: int) -> None:
        """Let the strategy take one step on a batch."""
        optimizer, average = self.optimizers(), self.use_of_ranks == "data"
        assert isinstance(optimizer, LightningOptimizer)
        lr = optimizer.param_groups[0]["lr"]
        closure = BatchLoss(self.task, self.network, batch, self.micro_batch_size, self.processes, average)
        loss = self.strategy.training_step(cast("Optimizer", optimizer), closure)
        self.forward_passes += closure.calls
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, LRScheduler):
            scheduler.step()
        # As a tensor on the host: Lightning would copy a number to the device, and wait for it.
        self.log_dict({"train/loss": loss, **logged(self.strategy, optimizer.optimizer), "lr": torch.tensor(lr)})
        self.log_axis()

    @override
    def on_train_batch_end(self, outputs: Any, batch: OptionBatch, batch_idx: int) -> None:
        self.strategy.on_train_batch_end(self)
        if logs_now(self.trainer):
            stop_if_diverged(self.trainer, self.strategy.skipped(self.trainer.optimizers[0]))

    @override
    def on_train_end(self) -> None:
        """Validate the last step, if no validation fell on it, and take up the weights that were best on dev."""
        stop_if_diverged(self.trainer, self.strategy.skipped(self.trainer.optimizers[0]))
        if self._validated_at != self.global_step and self.trainer.enable_validation:
            validate(self.trainer)
        self.settle()

    def settle(self) -> Literal["best", "last"]:
        """Hold the weights that were best on dev, where they trained, and return whether those or the last are held.

        What reports on a run begins with this.

        A run that was complete when it was taken up has no end of training, and Lightning takes the weights to the host
        at the end of any other.
        """
        if self._settled is None:
            self._settled = "best" if resume.load_best(self) else "last"
        self.to(self.trainer.strategy.root_device)
        return self._settled

    def log_axis(self) -> None:
        """Put what is logged beside this on an axis that counts optimizer steps; Lightning's own counts from zero."""
        self.log("step", torch.tensor(float(self.global_step)))

    # Evaluation

    @override
    def validation_step(self, batch: OptionBatch, batch_idx: int) -> None:
        self._running.add(self.network, batch)

    test_step = validation_step

    @override
    def on_validation_epoch_end(self) -> None:
        metrics = {f"val/{name}": value for name, value in self._running.compute().items()}
        self.log_dict(metrics)
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self.log_axis()
            self._validated_at = self.global_step
            self.strategy.on_validation_end(self, metrics)

    @override
    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self._running.compute().items()})

    @override
    def predict_step(self, batch: OptionBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Return what there is to tell of each example of a batch, or of this process' share of it."""
        return self._running.predictions(self.network, batch)

    @property
    def validation_metrics(self) -> tuple[str, ...]:
        """The names of what each validation logs, known once `setup` has met the task."""
        return tuple(f"val/{name}" for name in self._running.names)

    @property
    def _running(self) -> Evaluation:
        assert self._evaluation is not None, "Lightning calls setup() before any step"
        return self._evaluation

    # Checkpoints

    def export(self, folder: str | Path) -> None:
        """Write the model and its tokenizer as a Hugging Face folder."""
        loading.export(self.network, self.tokenizer(), Path(folder))

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        resume.note(self, self._recipe, checkpoint)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up a run, or its weights.

        Raises:
            ConfigurationError: if the checkpoint does not fit; see `resume.take_up`.
        """
        self._resumed = resume.take_up(self, checkpoint)
