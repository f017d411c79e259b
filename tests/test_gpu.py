"""What needs a GPU: the same numbers on it as on the CPU, and training steps that it can be given as one graph."""

from __future__ import annotations

import pytest
import torch

from elite.teaching.precision import full_precision
from elite.training.steps import StageModule
from tests.helpers import draw, half_mask, picture, tiny_pipeline
from tests.test_no_waiting import ROWS, batch_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def in_full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
    full_precision()


def test_picture_is_the_same_as_on_the_cpu(in_full_precision):
    options = {"num_inference_steps": 3, "fusion_weight": 0.6, "output_type": "latent"}
    drawn = {}
    for device in ("cpu", "cuda"):
        pipe = tiny_pipeline(seed=0).to(device)
        concept = pipe.encode_concept(picture(1), half_mask())
        drawn[device] = pipe("a S*", concept=concept, generator=torch.Generator().manual_seed(0), **options).images
    assert torch.allclose(drawn["cuda"].cpu(), drawn["cpu"], atol=1e-4)


@pytest.mark.parametrize("stage", ["global", "local"])
def test_training_step_is_captured_as_a_graph(stage, in_full_precision):
    """And the graph, played again, gives loss and gradients of what then lies in its inputs."""
    module = StageModule(tiny_pipeline(seed=0).to("cuda"), stage, snr_gamma=5.0)
    batch = {key: value.cuda() for key, value in batch_of(stage, module).items()}
    drawn = (draw(ROWS, 4, 8, 8, seed=4), torch.tensor([3, 500, 999]), draw(ROWS, 4, 8, 8, seed=5))
    inputs = [tensor.cuda() for tensor in drawn]
    trained = list(module.trained().values())

    def step() -> torch.Tensor:
        loss = module(batch, *inputs)["loss"]
        loss.backward()
        return loss.detach()

    stream = torch.cuda.Stream()  # a few steps on another stream first, as torch asks for
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            module.zero_grad(set_to_none=True)
            step()
    torch.cuda.current_stream().wait_stream(stream)
    module.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    inputs[0].copy_(draw(ROWS, 4, 8, 8, seed=7))
    graph.replay()
    captured = [loss.clone(), *(p.grad.clone() for p in trained)]
    module.zero_grad(set_to_none=True)
    ordinary = [step(), *(p.grad for p in trained)]
    for one, other in zip(captured, ordinary, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
