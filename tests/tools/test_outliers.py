"""The tool that looks for the first layer with activation outliers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import outliers
from tests.helpers.families import tiny
from tests.helpers.models import tokens
from zolightning.optim.blocks import layers_of


def suggested(printed: str) -> int:
    return int(printed.split("layers: [")[1].split("]")[0])


def test_the_sample_has_none_and_gets_a_weak_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    outliers.main(["sample"])
    printed = capsys.readouterr().out
    assert "No layer has activation outliers" in printed
    assert suggested(printed) in range(4)
    assert printed.count("<-") == 1


def test_a_small_real_model(stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outliers.main([str(stories), "--dtype", "bfloat16"])
    assert suggested(capsys.readouterr().out) >= 0


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_a_layer_that_makes_outliers_is_found(family: str) -> None:
    model: Any = tiny(family, torch.float32, num_hidden_layers=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.02)
    layers = [model.get_submodule(path) for path in layers_of(model)]

    def spoil(_module: object, _inputs: object, output: Any) -> Any:
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        hidden[0, 0, 3] = 500.0
        return output

    layers[2].register_forward_hook(spoil)
    with torch.no_grad(), outliers.watched(model) as levels:
        model(input_ids=tokens(), use_cache=False)
    assert [level.massive for level in levels] == [False, False, False, True, True]
    assert outliers.first_outlier(levels) == 2
    assert not any(layer._forward_hooks for layer in layers[:2])


def test_a_file_of_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("the film was good .\n\n" + "a " * 500)
    outliers.main(["sample", "--text", str(tmp_path / "texts.txt")])
    assert "layers: [" in capsys.readouterr().out
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(SystemExit):
        outliers.main(["sample", "--text", str(tmp_path / "empty.txt")])
