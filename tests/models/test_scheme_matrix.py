"""Every scheme with every strategy and family: what trains moves, nothing else does, and an export loads as it was."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from tests.helpers.methods import METHODS, SEED
from tests.helpers.models import language_loss, tokens
from tests.helpers.schemes import SCHEMES, VIRTUAL, Text, backbone, combinations, under
from zolightning.errors import ConfigurationError
from zolightning.models.loading import export, load_tokenizer

TEXT = tokens()
QUICK = [(scheme, family, method) for scheme, family in combinations() for method in ("ZOSGD", "FOAdam")]
QUICK += [(scheme, "llama", method) for scheme in SCHEMES for method in METHODS if method not in ("ZOSGD", "FOAdam")]
ALL = [(*pair, method) for pair, method in itertools.product(combinations(), METHODS)]
SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in QUICK]


def leaves_a_part_out(scheme: str, method: str) -> bool:
    """Return whether what trains lies on one side of a hybrid's cut, so that the other method has nothing to do."""
    return "Hybrid" in method and scheme in (*VIRTUAL, "head", "one layer", "biases of one layer")


@pytest.mark.parametrize(("scheme", "family", "method"), [*QUICK, *SLOW])
def test_five_steps_and_an_export(scheme: str, family: str, method: str, tmp_path: Path) -> None:
    # A window of four would hide the end of a prefix from what is read.
    settings: dict[str, Any] = {"sliding_window": None} if family == "mistral" else {}
    model, strategy = under(scheme, family, **settings), METHODS[method].make(1e-3)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    if leaves_a_part_out(scheme, method):
        with pytest.raises(ConfigurationError, match="use the other method alone"):
            strategy.configure(model, seed=SEED)
        return
    optimizer = strategy.configure(model, seed=SEED)
    losses = [strategy.training_step(optimizer, lambda: language_loss(Text(model), TEXT)) for _ in range(5)]
    assert all(loss.isfinite() for loss in losses)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert moved <= trained
    # The conservative method may find its step worse than none.
    assert moved or "Conservative" in method
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    check_export(model.eval(), backbone(family, scheme, **settings), tmp_path)


@torch.no_grad()
def check_export(model: nn.Module, base: nn.Module, folder: Path) -> None:
    export(model, load_tokenizer("sample"), folder)
    whole = (folder / "config.json").is_file()
    assert whole != (folder / "adapter_config.json").is_file()
    loaded: Any = cast("Any", AutoModelForCausalLM).from_pretrained(folder) if whole else None
    loaded = loaded or PeftModel.from_pretrained(cast("Any", base), str(folder))
    assert torch.equal(loaded.eval()(input_ids=TEXT).logits, model(input_ids=TEXT).logits)
