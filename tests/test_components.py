"""The adapter is a part of the pipeline like any other: in its components, copies, casts, offloads and uploads."""

from __future__ import annotations

import copy
import inspect

import accelerate
import diffusers.pipelines.pipeline_utils as pipeline_utils
import pytest
import torch
from diffusers import ModelMixin, StableDiffusionPipeline
from diffusers.utils import PushToHubMixin

from elite.adapter import EliteAdapter
from elite.attention import check_processors
from elite.pipeline import ElitePipeline
from tests.helpers import PROMPT, generate, half_mask, picture


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_adapter_is_a_model_of_diffusers_and_a_component(tiny, stock, tmp_path):
    assert isinstance(tiny.adapter, ModelMixin)
    assert tiny.components["adapter"] is tiny.adapter
    stock.save_pretrained(tmp_path)
    bare = ElitePipeline.from_pretrained(tmp_path)
    assert bare.components["adapter"] is None and bare.adapter is None and not bare.has_adapter


def test_a_pipeline_from_another_keeps_the_adapter(fresh, concept):
    expected = generate(fresh, concept=concept)
    again = quiet(ElitePipeline.from_pipe(fresh))
    assert again.adapter is fresh.adapter
    assert torch.equal(generate(again, concept=concept), expected)
    plain = quiet(StableDiffusionPipeline.from_pipe(again))
    assert torch.equal(generate(plain), generate(fresh))
    other = quiet(ElitePipeline.from_pipe(plain, adapter=fresh.adapter))
    assert torch.equal(generate(other, concept=concept), expected)
    on_a_copy = quiet(ElitePipeline.from_pipe(fresh, unet=copy.deepcopy(fresh.unet)))
    assert torch.equal(generate(on_a_copy, concept=concept), expected)
    assert set(check_processors(on_a_copy.unet).values()) == set(fresh.adapter.processors.values())


def test_casting_the_pipeline_casts_the_adapter(fresh):
    fresh.to(torch.bfloat16)
    assert {p.dtype for p in fresh.adapter.parameters()} == {torch.bfloat16}
    assert fresh.adapter.dtype is torch.bfloat16 and fresh.adapter.device == fresh.device


def sequentially(pipe):
    offload = accelerate.cpu_offload
    with pytest.MonkeyPatch.context() as patch:
        # diffusers names a device with a number, and accelerate's hooks do not know the CPU as "cpu:0".
        patch.setattr(
            accelerate, "cpu_offload", lambda model, device, **options: offload(model, torch.device("cpu"), **options)
        )
        pipe.enable_sequential_cpu_offload(device="cpu")


def model_by_model(pipe):
    pipe.enable_model_cpu_offload(device="cpu")


def leaf_by_leaf(pipe):
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")


def block_by_block(pipe):
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1)


@pytest.mark.parametrize("offload", [model_by_model, sequentially, leaf_by_leaf, block_by_block])
def test_offloaded_in_any_way_it_encodes_and_draws_the_same(fresh, concept, offload):
    """The hooks are those of a GPU, with the CPU in its place; sequential offload puts all weights on "meta"."""
    expected = generate(fresh, concept=concept)
    offload(fresh)
    if offload is sequentially:
        assert all(p.is_meta for p in fresh.adapter.parameters())
    for _ in range(2):
        encoded = fresh.encode_concept(picture(1), half_mask())
        torch.testing.assert_close(encoded.words, concept.words)
        torch.testing.assert_close(encoded.patch_embeddings, concept.patch_embeddings)
        torch.testing.assert_close(generate(fresh, concept=encoded), expected, atol=1e-5, rtol=0)


@pytest.fixture
def uploaded(monkeypatch, tmp_path):
    """What is uploaded, in place of the Hub: a folder's files by name."""
    found: dict[str, set[str]] = {}

    class Created:
        repo_id = "owner/name"

    def upload(self, working_dir, repo_id, **options):
        from pathlib import Path

        folder = Path(working_dir)
        found[repo_id] = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        found["index"] = (folder / "model_index.json").read_text() if (folder / "model_index.json").is_file() else ""

    card = type("Card", (), {"save": lambda self, path: None})()
    for module in (pipeline_utils, inspect.getmodule(ModelMixin), inspect.getmodule(PushToHubMixin)):
        for name, stand_in in (
            ("create_repo", lambda *args, **options: Created()),
            ("load_or_create_model_card", lambda *args, **options: card),
            ("populate_model_card", lambda card, **options: card),
        ):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, stand_in)
    monkeypatch.setattr(PushToHubMixin, "_upload_folder", upload)
    return found


WHOLE = {"model_index.json", "elite/config.json", "elite/diffusion_pytorch_model.safetensors", "unet/config.json"}


@pytest.mark.parametrize("way", ["method", "saving"])
def test_pushing_a_pipeline_uploads_its_adapter_too(tiny, uploaded, tmp_path, way):
    if way == "method":
        tiny.push_to_hub("name")
    else:
        tiny.save_pretrained(tmp_path / "name", push_to_hub=True, repo_id="name")
    assert uploaded["owner/name"] >= WHOLE
    assert "StableDiffusionPipeline" in uploaded["index"] and "adapter" not in uploaded["index"]
    assert tiny.has_adapter


def test_pushing_an_adapter_uploads_its_two_files(tiny, uploaded, tmp_path):
    tiny.adapter.save_pretrained(tmp_path / "name", push_to_hub=True)
    assert {"config.json", "diffusion_pytorch_model.safetensors"} <= uploaded["owner/name"]


def test_an_adapter_loads_as_any_model_does(tiny, tmp_path):
    tiny.adapter.save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "diffusion_pytorch_model.fp16.safetensors").is_file()
    loaded = EliteAdapter.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float16)
    assert {p.dtype for p in loaded.parameters()} == {torch.float16} and not loaded.training
    assert list(loaded.processors) == list(tiny.adapter.processors)  # in the UNet's order, not the alphabet's
    again = EliteAdapter.from_config(loaded.config)
    assert again.config == loaded.config


def test_arguments_are_those_of_the_base_class_and_ours_alone(tiny):
    ours = inspect.signature(ElitePipeline.__call__).parameters
    base = inspect.signature(StableDiffusionPipeline.__call__).parameters
    known = [name for name, each in base.items() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    assert list(ours)[: len(known)] == known
    for name in known:
        mine, theirs = ours[name].default, base[name].default
        assert mine == theirs or list(mine) == theirs, name
    assert all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in ours.values())
    for given in ({"fusion_weigth": 0.3}, {"guidance": 3.0}):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            tiny("a dog", **given)


def test_guidance_may_be_turned_off_half_way(fresh, concept):
    """As diffusers' own example does it: the callback says so, and cuts the batch."""

    def half_way(pipe, step, timestep, tensors):
        if step == 1:
            pipe._guidance_scale = 0.0
            return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[-1]}
        return tensors

    options = {"callback_on_step_end": half_way, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    got = generate(fresh, [PROMPT] * 2, concept=concept, num_inference_steps=4, **options)
    # The first of two pictures does not depend on the second, also after the batch was halved.
    alone = generate(fresh, PROMPT, concept=concept, num_inference_steps=4, **options)
    torch.testing.assert_close(got[:1], alone, atol=1e-5, rtol=0)
    assert not torch.allclose(alone, generate(fresh, PROMPT, concept=concept, num_inference_steps=4), atol=1e-3)
