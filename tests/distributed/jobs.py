"""What the tests ask of each process: to train or score the sample model, and to say what has come of it."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchmetrics import MetricCollection

from zolightning import FineTuner
from zolightning.callbacks import MemoryProfiler, PredictionWriter, Throughput
from zolightning.cli import main
from zolightning.evaluation import Evaluation, evaluate
from zolightning.models.batch import OptionBatch, collate
from zolightning.optim.ranks import Ranks
from zolightning.optim.together import RankUse, train_together
from zolightning.strategies import Strategy
from zolightning.tasks import SampleReviews

Weights = dict[str, np.ndarray[Any, Any]]


class Outcome(NamedTuple):
    """What a run came to."""

    weights: Weights
    metrics: dict[str, float]
    forward_passes: int
    seed: int


def task(**settings: Any) -> SampleReviews:
    """Return the sample's task: batches of 8, of which one in six has 4 examples."""
    return SampleReviews(**{"batch_size": 8, "num_train": 44, "num_dev": 21, "num_test": 21, **settings})


def trainer(processes: int, **settings: Any) -> Trainer:
    """Return a Trainer that says nothing."""
    return Trainer(
        **{
            "accelerator": "cpu",
            "devices": processes,
            "strategy": "auto" if processes == 1 else "zo_ddp",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            **settings,
        }
    )


def train(
    processes: int,
    strategy: Strategy,
    steps: int = 30,
    data: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    kind: type[FineTuner] = FineTuner,
    callbacks: list[Callback] | None = None,
) -> Outcome:
    """Train, and validate at the end."""
    module = kind("sample", strategy, **{"seed": 0, **(settings or {})})
    running = trainer(processes, max_steps=steps, callbacks=callbacks)
    running.fit(module, datamodule=task(**(data or {})))
    metrics = {name: float(value) for name, value in running.callback_metrics.items()}
    return Outcome(weights_of(module.network), metrics, module.forward_passes, module.run_seed)


def weights_of(model: nn.Module) -> Weights:
    """Return a model's weights by name, in float64, which holds those of any kind."""
    return {name: parameter.detach().double().numpy() for name, parameter in model.named_parameters()}


class Twice(FineTuner):
    """Has each batch twice over, so that each of two ranks is given what one process is."""

    def training_step(self, batch: OptionBatch, batch_idx: int) -> None:
        super().training_step(collate(batch.examples * 2), batch_idx)


def train_seeded_apart(strategy: Strategy) -> Outcome:
    """Train with no seed but the generator's, which differs from process to process."""
    # What another job may have set, and Lightning would go by.
    os.environ.pop("PL_GLOBAL_SEED", None)
    torch.manual_seed(_rank() + 1)
    return train(2, strategy, 3, settings={"seed": None})


def optimise(strategy: Strategy, size: int, use: RankUse, steps: int = 5) -> tuple[Weights, list[float]]:
    """Step in a bare loop, each rank on the same data, and return the weights and the losses."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    data, target = torch.randn(8, 6), torch.randn(8, 1)
    optimizer = strategy.configure(model, seed=3)
    train_together(optimizer, Ranks(_rank() if size > 1 else 0, size), use)
    losses = [
        strategy.training_step(optimizer, lambda: nn.functional.mse_loss(model(data), target)) for _ in range(steps)
    ]
    return weights_of(model), [float(loss) for loss in losses]


class Listening(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes how many bytes each collective takes in and out."""

    heard: list[tuple[str, int]]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            sizes = [leaf.nbytes for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
            self.heard.append((func.name(), sum(sizes)))
        return func(*args, **(kwargs or {}))


class Eavesdropper(Callback):
    """Listens to steps, from the batch's arrival to the next one's, and so to what other callbacks say."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []
        # Without types in torch.
        self.listening = cast("Any", Listening)()
        self.listening.heard = self.heard

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx:
            self.listening.__exit__(None, None, None)
        self.listening.__enter__()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.listening.__exit__(None, None, None)


def overhear(strategy: Strategy, use: RankUse) -> list[tuple[str, int]]:
    """Return the collectives of two steps, and the bytes that each takes in."""
    spy = Eavesdropper()
    train(2, strategy, 2, settings={"ranks": use}, callbacks=[MemoryProfiler(1, table=False), Throughput(), spy])
    return spy.heard


class Nudge(Callback):
    """Moves a weight of one process by a bit."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_rank == 1:
            weight = next(pl_module.parameters()).data.view(-1)
            weight[0] = torch.nextafter(weight[0], torch.tensor(1.0))


def train_apart(strategy: Strategy) -> str:
    """Return what is said of weights that are not equal any more."""
    try:
        train(2, strategy, 2, callbacks=[Nudge()])
    except RuntimeError as error:
        return str(error)
    return ""


def refused(strategy: Strategy, settings: dict[str, Any]) -> str:
    """Return why a run is refused."""
    try:
        train(2, strategy, 1, settings=settings)
    except ValueError as error:
        return str(error)
    return ""


class Judgement(NamedTuple):
    """What evaluations say of the untrained model."""

    validated: dict[str, float]
    tested: dict[str, float]
    scored: dict[str, float]
    forwards: int


class CountingTask(SampleReviews):
    """Counts the batches that it assesses."""

    forwards = 0

    def assess(self, model: nn.Module, batch: OptionBatch) -> Any:
        self.forwards += 1
        return super().assess(model, batch)


def judge(processes: int, strategy: Strategy, data: dict[str, Any]) -> Judgement:
    """Validate, test, and score outside of any loop."""
    module, running = FineTuner("sample", strategy, seed=0), trainer(processes)
    given = CountingTask(**{"num_train": 8, "num_dev": 21, "num_test": 10, **data})
    (validated,) = running.validate(module, datamodule=given, verbose=False)
    (tested,) = running.test(module, datamodule=given, verbose=False)
    ranks = Ranks(_rank() if processes > 1 else 0, processes)
    scored = evaluate(given, module.network, given.val_dataloader(), module.device, ranks)
    return Judgement(dict(validated), dict(tested), scored, given.forwards)


def predict(processes: int, strategy: Strategy, folder: Path) -> None:
    """Write the predictions."""
    module = FineTuner("sample", strategy, seed=0)
    running = trainer(processes, callbacks=[PredictionWriter()], default_root_dir=folder)
    running.predict(module, datamodule=task(eval_batch_size=4, num_test=9))


class Prepared:
    """A task whose examples are told apart by their answers, and whose outcomes are known."""

    def __init__(self, metrics: MetricCollection, rows: dict[str, Any]) -> None:
        self._metrics = metrics
        self._rows = rows

    def metrics(self) -> MetricCollection:
        return self._metrics

    def loss_weight(self, batch: OptionBatch) -> int:
        return batch.num_examples

    def assess(self, model: nn.Module, batch: OptionBatch) -> tuple[torch.Tensor, dict[str, Any]]:
        chosen = [example.prompt[0] for example in batch.examples]
        outcome = {
            name: column[torch.tensor(chosen)] if isinstance(column, torch.Tensor) else [column[i] for i in chosen]
            for name, column in self._rows.items()
        }
        return torch.tensor(chosen, dtype=torch.float32).mean(), outcome


def compute(processes: int, metrics: MetricCollection, rows: dict[str, Any], batches: list[OptionBatch]) -> Any:
    """Return what an evaluation of prepared outcomes computes."""
    ranks = Ranks(_rank() if processes > 1 else 0, processes)
    given: Any = Prepared(metrics, rows)
    evaluation = Evaluation(given, ranks)
    for batch in batches:
        evaluation.add(nn.Identity(), batch)
    return {name: float(value) for name, value in evaluation.compute().items()}


def command(*words: str) -> None:
    """Run a command line."""
    main([*words])


def join() -> None:
    """Join the process group, as a first run does."""
    trainer(2).strategy.setup_environment()


def _rank() -> int:
    return torch.distributed.get_rank()


def bench(flags: list[str]) -> str:
    """Run the tool that measures steps, and return what it prints."""
    # Found through the path that pytest has set.
    import bench_distributed

    printed = io.StringIO()
    with redirect_stdout(printed):
        bench_distributed.main(flags)
    return printed.getvalue()
