"""Being asked to end, beside whoever else listens."""

from __future__ import annotations

import os
import signal
from unittest.mock import Mock

from zolightning.distributed import Termination


def test_a_users_own_handler_is_told_too() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        callback = Termination()
        callback.setup(Mock(), Mock(), "fit")
        callback.on_train_start(Mock(), Mock())
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
