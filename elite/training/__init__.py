"""Training of both stages: one step (`steps`), its random draws, what is cached, and the loop around them."""

from elite.training.config import TrainingConfig
from elite.training.loop import TrainingResult, train
from elite.training.presets import PRESETS, load_config
from elite.training.steps import StageModule

__all__ = ["PRESETS", "StageModule", "TrainingConfig", "TrainingResult", "load_config", "train"]
