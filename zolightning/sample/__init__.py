"""The embedded sample: a small pretrained Llama and a sentiment task, for a run without network."""

from pathlib import Path

TASK: Path = Path(__file__).parent
MODEL: Path = TASK / "model"
