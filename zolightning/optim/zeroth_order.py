"""The zeroth-order optimizer: named parameters, a step counter, probes inside the forward, and a non-finite guard."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from zolightning.errors import ConfigurationError
from zolightning.optim.blocks import Block, Blocks, partition
from zolightning.optim.estimators import Closure, Estimate, Estimator, two_sided
from zolightning.optim.groups import decay_groups
from zolightning.optim.guard import SkipGuard
from zolightning.optim.hyperparameters import check_hyperparameters
from zolightning.optim.masking import Masking, forget
from zolightning.optim.method import Method
from zolightning.optim.ranks import ALONE, Ranks
from zolightning.optim.recall import learning_at, no_loss, recalled, why_not
from zolightning.optim.records import Record, Taken
from zolightning.optim.restoring import check_fits, restore_exactly, write_steps
from zolightning.optim.shared_queries import SharedQueries
from zolightning.optim.sparsity import Sparsity
from zolightning.optim.updates import Linear, Update
from zolightning.perturbation.engine import Engine, Step
from zolightning.perturbation.noise import LAYOUT_VERSION, Stream
from zolightning.perturbation.options import DEFAULT, EngineOptions
from zolightning.perturbation.self_check import self_check
from zolightning.perturbation.shards import reshard, units_of

log = logging.getLogger(__name__)

LINEAR = Linear()


class ZerothOrderOptimizer(Optimizer):
    """An optimizer that sees a model through its losses alone: an estimator, and an update by what it finds.

    The step counter and the seed live in the parameter groups, so that every checkpoint format keeps them; each
    parameter has a 0-dimensional `step` state made in the constructor, which sharded checkpoints need.

    Args:
        model: the model whose trainable parameters are optimised.
        lr: learning rate.
        eps: smoothing parameter.
        num_queries: directions a step.
        weight_decay: decoupled weight decay; parameters of one dimension (biases, norms) are exempt.
        seed: the run's seed, 64 bits: with the step and the parameters' names it determines every direction.
        sparsity: which weights are perturbed and updated; None for all.
        estimator: makes projected gradients of losses.
        update: moves the weights by them.
        blocks: how the model is cut into parts that are probed and updated one at a time; None for one part.
        engine: how directions are drawn, weights probed and updates rounded.

    Raises:
        ConfigurationError: if no parameter is trainable, a number is out of its range, in-place probes are asked of a
            mask that goes by magnitude, which moves with the weights, or the update refuses a setting.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        eps: float,
        num_queries: int = 1,
        weight_decay: float = 0.0,
        seed: int = 0,
        sparsity: Sparsity | None = None,
        estimator: Estimator = two_sided,
        update: Update = LINEAR,
        blocks: Blocks | None = None,
        engine: EngineOptions = DEFAULT,
    ) -> None:
        check_hyperparameters(lr=lr, eps=eps, num_queries=num_queries, weight_decay=weight_decay)
        if engine.probe == "in_place" and sparsity is not None and sparsity.moves_with_weights:
            raise ConfigurationError(
                "engine.probe: in_place moves the weights that a mask by magnitude is made from, so that probe and "
                "update would differ: use engine.probe: in_forward, or mask: random or snip"
            )
        reshard(units_of(model))
        super().__init__(decay_groups(model.parameters(), weight_decay), {"lr": lr, "eps": eps})
        for group in self.param_groups:
            group.update(step=0, seed=seed, layout=LAYOUT_VERSION)
        self.param_groups[0]["sparsity"] = None if sparsity is None else list(astuple(sparsity))
        self.num_queries = num_queries
        self.guard = SkipGuard(self)
        self.sparsity = sparsity
        self.last: Estimate | None = None
        self.engine = Engine(model, engine)
        self.estimator, self.update, self.ranks = estimator, update, ALONE
        self._ahead: dict[int, Record] = {}
        self.taken: Taken | None = None
        self.plan, self._blocks = blocks, [tuple(self.engine.parameters)]
        if blocks is not None:
            names = {parameter: name for name, parameter in self.engine.parameters.items()}
            self._blocks = partition(model, names, blocks.granularity)
        update.check(self)
        self._model = model
        self._checked = False
        self._kept: set[str] = set()
        for parameter in self.engine.parameters.values():
            state = self.state[parameter]
            state["step"] = torch.zeros((), dtype=torch.int64)
            own = update.state(parameter)
            self._kept |= own.keys()
            state.update(own)
        self._masking = None if sparsity is None else Masking(self, sparsity)
        self.register_state_dict_pre_hook(write_steps)

    @property
    def step_count(self) -> int:
        """Steps taken so far."""
        return int(self.param_groups[0]["step"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.param_groups[0]["seed"])

    @property
    def eps(self) -> float:
        """The smoothing parameter."""
        return float(self.param_groups[0]["eps"])

    @override
    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Probe, then move the weights; or, where `follow` was given a record of the step, move them by that.

        Args:
            closure: returns the loss [] of the step's batch; called without gradients at perturbed weights, always with
                the same data; once more before the first step, if `check` has not been called. A step that follows a
                record needs none.

        Returns:
            The loss at the unperturbed weights, estimated as the mean over the probes [], on its device.

        Raises:
            ConfigurationError: if no closure is given, or, at the first step, as `check`.
        """
        record = self._ahead.pop(self.step_count, None)
        if record is not None:
            with learning_at(self, record.lr):
                estimate = self._step(recalled(self, record), no_loss)
            self.guard.recall(estimate.finite)
            return estimate.loss
        if closure is None:
            raise ConfigurationError(
                "a zeroth-order step needs a closure that returns the loss: optimizer.step(closure)"
            )
        if not self._checked:
            self.check(closure)
        estimate = self._step(Method(self.estimator, self.update), closure)
        self.guard.watch(estimate.finite)
        return estimate.loss

    def follow(self, records: Iterable[Record]) -> None:
        """Let the steps that have a record among these move the weights by it, without a forward.

        Weights, masks and state then are what they were when the records were made, bit for bit on the same kind of
        device, if this optimizer is made as that one was and begins where it did.

        Raises:
            ConfigurationError: if no step of this optimizer can be told by its scalars; see `irreproducible`.
        """
        if (why := self.irreproducible) is not None:
            raise ConfigurationError(f"the steps of this optimizer are not told by scalars alone: {why}")
        self._ahead = {record.step: record for record in records}

    @property
    def irreproducible(self) -> str | None:
        """Why a step cannot be taken again from its record, or None if it can."""
        return why_not(self)

    def _of_step(self) -> list[Block]:
        assert self.plan is not None
        return self.plan.of_step(self._blocks, self.step_count, self.seed)

    def _step(self, method: Method, closure: Closure) -> Estimate:
        self.engine.begin_step()
        if self._masking is not None:
            self._masking.pick_if_due(closure)
        try:
            if self.plan is None:
                estimate, factors = method.step(self, closure)
            else:
                estimate, factors = method.step_blocks(self, closure, self._of_step(), self.plan.order)
        finally:
            self.engine.restore()
        self.count(estimate, factors)
        return estimate

    def count(self, estimate: Estimate, factors: Tensor) -> None:
        """Note a step that was taken: what its probes found, and the factors of its record [factors]."""
        self.taken = Taken(self.step_count, self.param_groups[0]["lr"], estimate.loss, factors)
        for group in self.param_groups:
            group["step"] += 1
        self.last = estimate

    def share_queries(self, ranks: Ranks) -> None:
        """Let each rank probe its part of the queries, on the data that its own closure has; call it before the steps.

        Raises:
            ConfigurationError: if they cannot be divided, or the processes would not stay equal; see `SharedQueries`.
        """
        shared = SharedQueries(self.estimator, ranks)
        shared.check(self)
        self.estimator, self.ranks = shared, ranks

    @property
    def blocks(self) -> Sequence[Block]:
        """The names of the parameters of each block; one block of all if the model is not cut."""
        return self._blocks

    @property
    def factors_a_step(self) -> int:
        """How many factors a step's `Record` has: one a query, for each block that it works on."""
        return self.num_queries * len(self._blocks if self.plan is None else self._of_step())

    @torch.no_grad()
    def check(self, closure: Closure) -> None:
        """Check with one probe that perturbation in the forward suits the model; see `self_check`.

        Args:
            closure: returns the loss [] of any batch, best a small one.

        Raises:
            ConfigurationError: naming the parameters that no module used, or the modules that read others' weights.
        """
        self_check(self.engine, self._model, closure, self.place(0), self.eps)
        self._checked = True

    def probe(self, query: int, scale: float) -> AbstractContextManager[None]:
        """Let the forwards within the context see theta + scale z_query; with in-place probes theta itself is there."""
        return self.engine.perturbed(self.place(query), scale)

    def differentiate(self, query: int) -> AbstractContextManager[None]:
        """Let the losses of forwards within the context have the tangent <grad f(theta), z_query>."""
        return self.engine.differentiated(self.place(query))

    def place(self, query: int) -> Stream:
        """Return where this step's noise for a query begins, whatever the parameter."""
        return Stream(self.seed, parameter=0, step=self.step_count, query=query)

    def places(self) -> list[Stream]:
        """Return where this step's noise begins for every query."""
        return [self.place(query) for query in range(self.num_queries)]

    def groups_by_name(self) -> dict[str, dict[str, Any]]:
        """Return each trainable parameter's group by its name."""
        groups = {id(parameter): group for group in self.param_groups for parameter in group["params"]}
        return {name: groups[id(parameter)] for name, parameter in self.engine.parameters.items()}

    def steps_along(self, shares: Tensor, alive: Tensor) -> dict[str, Step]:
        """Return how far each parameter moves against sum_i shares[i] z_i, and how much it decays, by name.

        Args:
            shares: each query's share of the projected gradient; zero where the step is to be skipped [queries].
            alive: whether weights decay: whether the step is not to be skipped, bool [].
        """
        steps: dict[tuple[float, float], Step] = {}
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            steps[lr, decay] = Step(lr * shares, alive.to(shares.dtype) * (lr * decay) if decay else None)
        return {name: steps[group["lr"], group["weight_decay"]] for name, group in self.groups_by_name().items()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counters, the seed, and the thresholds, which are found anew if the recipe has another mask.

        Raises:
            ConfigurationError: if the directions of the checkpoint were made by another layout of the noise, or its
                state is another update's.
        """
        layout = state_dict["param_groups"][0].get("layout")
        if layout != LAYOUT_VERSION:
            raise ConfigurationError(
                f"the checkpoint's directions have noise layout {layout}, this version makes layout {LAYOUT_VERSION}: "
                "the run cannot go on as it began"
            )
        check_fits(state_dict, self._kept)
        recipe = self.param_groups[0]["sparsity"]
        super().load_state_dict(state_dict)
        self.engine.begin_step()
        changed = self.param_groups[0]["sparsity"] != recipe
        restore_exactly(self, state_dict)
        if changed:
            log.warning("The mask %s of the checkpoint is replaced by %s", self.param_groups[0]["sparsity"], recipe)
            self.param_groups[0]["sparsity"] = recipe
            forget(self)
            self._masking = None if self.sparsity is None else Masking(self, self.sparsity)
        elif self._masking is not None:
            self._masking.restore()
