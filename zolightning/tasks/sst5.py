"""SST-5: how positive is a sentence of a film review?"""

from __future__ import annotations

from collections.abc import Mapping

from zolightning.tasks.source import Source
from zolightning.tasks.sst2 import SST2


class SST5(SST2):
    """Sentiment of film reviews in five degrees (Socher et al. 2013), worded as SST-2 is."""

    source = Source(
        hub="SetFit/sst5",
        validation="test",
        train_file="train.jsonl",
        validation_file="test.jsonl",
        rename={"text": "sentence"},
    )
    options = (" terrible", " bad", " okay", " good", " great")
    cloze_options = options
    labels: Mapping[str, int] = {"0": 0, "1": 1, "2": 2, "3": 3, "4": 4}
