"""The tasks: Lightning data modules that state files, fields, a prompt, options and a metric."""

from __future__ import annotations

from zolightning.tasks.base import Task
from zolightning.tasks.boolq import BoolQ
from zolightning.tasks.cb import CB
from zolightning.tasks.copa import COPA
from zolightning.tasks.jsonl import JsonlTask
from zolightning.tasks.piqa import PIQA
from zolightning.tasks.rte import RTE
from zolightning.tasks.sample import SampleReviews
from zolightning.tasks.source import Source
from zolightning.tasks.sst2 import SST2
from zolightning.tasks.wic import WiC
from zolightning.tasks.winogrande import WinoGrande
from zolightning.tasks.wsc import WSC

__all__ = (
    "CB",
    "COPA",
    "PIQA",
    "RTE",
    "SST2",
    "WSC",
    "BoolQ",
    "JsonlTask",
    "SampleReviews",
    "Source",
    "Task",
    "WiC",
    "WinoGrande",
)
