"""The tasks: Lightning data modules that state files, fields, a prompt, options and a metric."""

from __future__ import annotations

from zolightning.tasks.base import Task
from zolightning.tasks.boolq import BoolQ
from zolightning.tasks.jsonl import JsonlTask
from zolightning.tasks.rte import RTE
from zolightning.tasks.sample import SampleReviews
from zolightning.tasks.source import Source
from zolightning.tasks.sst2 import SST2

__all__ = ("RTE", "SST2", "BoolQ", "JsonlTask", "SampleReviews", "Source", "Task")
