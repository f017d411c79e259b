"""A small evaluation in a process of its own: ``python -m tests.evaluation.run_small FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from elite.evaluation.drawing import Drawing, Elite
from elite.evaluation.protocol import Evaluation, run
from tests.evaluation.worlds import encoders, subject
from tests.helpers import tiny_pipeline

if __name__ == "__main__":
    torch.set_num_threads(1)
    subjects = [subject(number) for number in range(3)]
    few = Drawing(num_inference_steps=2)
    run(Evaluation(Elite(tiny_pipeline(seed=0)), subjects, Path(sys.argv[1]), few, 2, 2), encoders, progress=False)
