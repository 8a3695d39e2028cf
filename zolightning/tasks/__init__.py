"""The tasks: Lightning data modules that state files, fields, a prompt, options and a metric."""

from __future__ import annotations

from zolightning.tasks.aqua import AQuA
from zolightning.tasks.base import Task
from zolightning.tasks.boolq import BoolQ
from zolightning.tasks.cb import CB
from zolightning.tasks.cola import CoLA
from zolightning.tasks.copa import COPA
from zolightning.tasks.drop import DROP
from zolightning.tasks.generation import GenerationTask
from zolightning.tasks.jsonl import JsonlTask
from zolightning.tasks.jsonl_generation import JsonlGeneration
from zolightning.tasks.mnli import MNLI
from zolightning.tasks.mrpc import MRPC
from zolightning.tasks.multirc import MultiRC
from zolightning.tasks.piqa import PIQA
from zolightning.tasks.qnli import QNLI
from zolightning.tasks.record_dataset import ReCoRD
from zolightning.tasks.rte import RTE
from zolightning.tasks.sample import SampleReviews
from zolightning.tasks.siqa import SIQA
from zolightning.tasks.snli import SNLI
from zolightning.tasks.source import Source
from zolightning.tasks.squad import SQuAD
from zolightning.tasks.sst2 import SST2
from zolightning.tasks.sst5 import SST5
from zolightning.tasks.trec import TREC
from zolightning.tasks.wic import WiC
from zolightning.tasks.winogrande import WinoGrande
from zolightning.tasks.wsc import WSC

__all__ = (
    "CB",
    "COPA",
    "DROP",
    "MNLI",
    "MRPC",
    "PIQA",
    "QNLI",
    "RTE",
    "SIQA",
    "SNLI",
    "SST2",
    "SST5",
    "TREC",
    "WSC",
    "AQuA",
    "BoolQ",
    "CoLA",
    "GenerationTask",
    "JsonlGeneration",
    "JsonlTask",
    "MultiRC",
    "ReCoRD",
    "SQuAD",
    "SampleReviews",
    "Source",
    "Task",
    "WiC",
    "WinoGrande",
)
