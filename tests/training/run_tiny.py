"""A run on the tiny pipeline in a process of its own: ``python -m tests.training.run_tiny SETTINGS.yaml [float64]``."""

from __future__ import annotations

import sys

import torch

from elite.training.config import TrainingConfig
from elite.training.loop import train
from tests.helpers import tiny_pipeline


def exact_pipeline():
    """The tiny pipeline with its adapter in float64: sums in another order then differ by 1e-13, not by 1e-6."""
    pipeline = tiny_pipeline(seed=0)
    parts = (pipeline.vae, pipeline.text_encoder, pipeline.image_encoder, pipeline.adapter, pipeline.unet)
    for part in parts:
        part.double()
    return pipeline


if __name__ == "__main__":
    torch.set_num_threads(1)
    pipeline = exact_pipeline() if "float64" in sys.argv[2:] else tiny_pipeline(seed=0)
    train(TrainingConfig.from_file(sys.argv[1]), pipeline=pipeline, progress=False)
