"""A run on the tiny pipeline in a process of its own: ``python -m tests.training.run_tiny SETTINGS.yaml``."""

from __future__ import annotations

import sys

import torch

from elite.training.config import TrainingConfig
from elite.training.loop import train
from tests.helpers import tiny_pipeline

if __name__ == "__main__":
    torch.set_num_threads(1)
    train(TrainingConfig.from_file(sys.argv[1]), pipeline=tiny_pipeline(seed=0), progress=False)
