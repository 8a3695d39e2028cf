"""How the engine works: what a recipe can choose, whatever the strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from zolightning.errors import ConfigurationError, check_choice
from zolightning.perturbation.rounding import Rounding

Distribution = Literal["gaussian", "rademacher", "sphere"]
ProbeMode = Literal["in_forward", "in_place"]
IdleRows = Literal["update", "skip"]


@dataclass(frozen=True)
class EngineOptions:
    """How directions are drawn, how weights are probed and how they are rounded.

    Args:
        distribution: of the directions: `gaussian`, standard normal numbers; `rademacher`, signs, which cost a
            thirty-second of the random words; `sphere`, uniform on the sphere of radius sqrt(d), d the number of
            trainable weights, which costs a pass over the counters to find a norm.
        probe: `in_forward` perturbs each weight inside the forward of its module, and the weights never move.
            `in_place` is MeZO's own walk (arXiv 2305.17333, algorithm 1): +eps, -2 eps, and restore merged with the
            update, three passes over the weights a step. It drifts: with no update at all, weights N(0, 0.02^2) are off
            by 12 % of their norm after 1,000 steps in bfloat16, 1.5 % in float16 and 2e-6 in float32. It is for
            comparison, and for models whose modules read each other's weights.
        rounding: how updates of half-precision weights are rounded; `stochastic` keeps the small ones, `nearest` loses
            what is below half the spacing of the weights.
        idle_rows: what a step does to rows of an embedding or output head that cannot influence the batch's loss, whose
            gradient is exactly zero: `update` moves them along the direction with all others, as the papers do; `skip`
            leaves them alone, weight decay included.
        compiled: whether to compile the kernels; null compiles from a million trainable weights on.

    Raises:
        ConfigurationError: if a choice is not one of those, or idle rows are to be skipped with in-place probes, which
            do not see what a forward looks up.
    """

    distribution: Distribution = "gaussian"
    probe: ProbeMode = "in_forward"
    rounding: Rounding = "stochastic"
    idle_rows: IdleRows = "update"
    compiled: bool | None = None

    def __post_init__(self) -> None:
        """Check the choices."""
        allowed = {"distribution": Distribution, "probe": ProbeMode, "rounding": Rounding, "idle_rows": IdleRows}
        for name, choices in allowed.items():
            check_choice(f"engine.{name}", getattr(self, name), get_args(choices))
        check_choice("engine.compiled", self.compiled, (None, True, False))
        if self.probe == "in_place" and self.idle_rows == "skip":
            raise ConfigurationError(
                "engine.idle_rows: skip needs engine.probe: in_forward: an in-place probe does not see which rows a "
                "forward looks up"
            )


DEFAULT = EngineOptions()
