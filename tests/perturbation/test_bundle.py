"""Small parameters that are moved in one tensor have the bits of each moved alone."""

from __future__ import annotations

import pytest
import torch

from zolightning.perturbation.bundle import Bundle, are_light
from zolightning.perturbation.compiler import Compiler
from zolightning.perturbation.masks import Selection
from zolightning.perturbation.motion import Motion, subtract
from zolightning.perturbation.noise import Stream, parameter_words
from zolightning.perturbation.shards import Part
from zolightning.perturbation.steps import Step, Turn

SIZES = {"norm": 70, "bias": 3, "matrix": 4500}
WORDS = parameter_words(SIZES)
EAGER = Compiler(False, 0)


def place(number: int) -> Stream:
    return Stream(seed=7, parameter=0, step=number)


def turns(dtype: torch.dtype) -> list[Turn]:
    """Return five steps, of which one is a skipped one's."""
    torch.manual_seed(0)
    steps = [Step(torch.randn(1, dtype=dtype) * (number != 2), None) for number in range(5)]
    return [Turn([place(number)], dict.fromkeys(SIZES, step)) for number, step in enumerate(steps)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bits_are_those_of_one_after_the_other(dtype: torch.dtype) -> None:
    """Also of what a process holds of a parameter, which may be nothing."""
    held = {"norm": range(70), "bias": range(0), "matrix": range(130, 4200)}
    weights = {name: torch.randn(size, dtype=dtype) for name, size in SIZES.items()}
    expected = {name: weight.clone() for name, weight in weights.items()}
    parts = {name: Part(weights[name][at.start : at.stop].clone(), at.start, SIZES[name]) for name, at in held.items()}
    Bundle(SIZES, WORDS, torch.device("cpu"), EAGER).subtract_in_turn(parts, turns(dtype))
    for name, weight in expected.items():
        for places, of in turns(dtype):
            stream = Stream(places[0].seed, WORDS[name], places[0].step)
            subtract(weight, Motion("signs", [stream], of[name].coefficients), EAGER)
        assert torch.equal(parts[name].flat, weight[held[name].start : held[name].stop])
    assert not torch.equal(expected["norm"], weights["norm"])


def test_light_turns_are_several_alike_of_one_direction_and_nothing_to_round() -> None:
    parts = {name: Part.all_of(torch.zeros(size)) for name, size in SIZES.items()}
    light, step = turns(torch.float32), Step(torch.ones(1), None)
    assert are_light(light, parts, {})
    assert not are_light(light[:1], parts, {})
    assert not are_light(light, {}, {})
    assert not are_light(light, {name: Part.all_of(part.flat.bfloat16()) for name, part in parts.items()}, {})
    assert not are_light(light, {**parts, "bias": Part.all_of(torch.zeros(3).double())}, {})
    assert not are_light(light, parts, {"bias": Selection("magnitude", torch.tensor(5), torch.tensor(0), place(0))})
    alike = dict.fromkeys(SIZES, step)
    others = {
        "decay": Turn([place(9)], dict.fromkeys(SIZES, Step(step.coefficients, torch.ones(())))),
        "a learning rate of its own": Turn([place(9)], {**alike, "bias": Step(step.coefficients, None)}),
        "two directions": Turn([place(8), place(9)], alike),
    }
    for what, other in others.items():
        assert not are_light([*light, other], parts, {}), what
