"""ElitePipeline: a subject in pictures, and all that Stable Diffusion's pipeline gives."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from diffusers import LMSDiscreteScheduler
from PIL import Image

from elite.adapter import EliteAdapter
from elite.attention import Conditioning, check_processors
from elite.concept import Concept
from elite.io.fingerprint import fingerprint
from elite.pipeline import ElitePipeline
from elite.prompts import encode_prompts, select_words, tokenize
from elite.sampling import SCHEDULE, sample_lms
from tests.helpers import PROMPT, WIDTH, draw, generate, half_mask, picture, tiny_image_encoder


@pytest.fixture(scope="module")
def other(tiny):
    return tiny.encode_concept(picture(2))


def test_without_concept_it_is_the_base_pipeline_bit_for_bit(tiny, stock):
    assert torch.equal(generate(tiny), generate(stock))


def test_concept_changes_the_picture_and_fusion_weight_zero_leaves_local_out(tiny, concept, other):
    both = generate(tiny, concept=concept)
    assert not torch.allclose(both, generate(tiny), atol=1e-2)
    assert not torch.allclose(both, generate(tiny, concept=other), atol=1e-2)
    without = generate(tiny, concept=concept, fusion_weight=0.0)
    assert not torch.allclose(both, without, atol=1e-3)
    blank = Concept(concept.words, torch.zeros_like(concept.patch_embeddings), concept.metadata)
    torch.testing.assert_close(generate(tiny, concept=blank), without, atol=1e-4, rtol=0)


def test_lms_with_guidance_5_reproduces_the_sampler_of_the_paper(fresh, concept):
    fresh.scheduler = LMSDiscreteScheduler(**SCHEDULE)
    noise = draw(1, 4, 8, 8)
    got = generate(fresh, concept=concept, num_inference_steps=6, latents=noise, fusion_weight=0.6)
    tokenized = tokenize(fresh.tokenizer, PROMPT)
    text = encode_prompts(fresh.text_encoder, tokenized, select_words(concept.words[None], "w0"))
    negative = encode_prompts(fresh.text_encoder, tokenize(fresh.tokenizer, "", require_placeholder=False))
    asked = Conditioning(concept.patch_embeddings[None], tokenized.word_index, 0.6)
    torch.testing.assert_close(got, sample_lms(fresh.unet, noise, text, negative, asked, 6, 5.0), atol=5e-4, rtol=0)


def test_a_batch_may_carry_another_concept_for_each_prompt_also_with_several_pictures(tiny, concept, other):
    """Prompts stand a a b b; concepts that stood a b a b would be mixed up here."""
    prompts = [PROMPT, "the S*"]
    got = generate(tiny, prompts, concept=[concept, other], num_images_per_prompt=2)
    for row, (prompt, own) in enumerate([(PROMPT, concept)] * 2 + [("the S*", other)] * 2):
        alone = generate(tiny, prompt, concept=own, latents=draw(1, 4, 8, 8, seed=row))
        torch.testing.assert_close(got[row : row + 1], alone, atol=2e-5, rtol=0)


def test_placeholders_choose_the_concept_of_each_prompt(tiny, concept, other):
    got = generate(tiny, ["a <cat>", "a <dog>"], concept={"<dog>": other, "<cat>": concept})
    torch.testing.assert_close(got, generate(tiny, ["a S*", "a S*"], concept=[concept, other]), atol=1e-5, rtol=0)


def test_a_call_left_to_itself_takes_the_primary_word_reweighting_and_a_fusion_weight_of_08(tiny, concept):
    explicit = generate(tiny, concept=concept, words="w0", fusion_weight=0.8, reweighting=True)
    assert torch.equal(generate(tiny, concept=concept), explicit)


def test_words_and_fusion_weight_are_heard(tiny, concept):
    results = [generate(tiny, concept=concept, words=words) for words in ("w0", "w1", "all", (0, 2))]
    results.append(generate(tiny, concept=concept, fusion_weight=0.2))
    results.append(generate(tiny, concept=concept, reweighting=False))
    for i, first in enumerate(results):
        assert all(not torch.allclose(first, second, atol=1e-3) for second in results[i + 1 :])
    each = generate(tiny, [PROMPT, PROMPT], concept=concept, fusion_weight=[0.2, 0.8])
    torch.testing.assert_close(each[:1], results[4], atol=2e-5, rtol=0)
    for same in (np.float32(0.2), torch.tensor(0.2)):
        torch.testing.assert_close(generate(tiny, concept=concept, fusion_weight=same), results[4])


def test_a_concept_loaded_from_a_file_gives_the_same_picture(tiny, concept, tmp_path):
    loaded = Concept.load(concept.save(tmp_path / "dog"))
    assert torch.equal(generate(tiny, concept=loaded), generate(tiny, concept=concept))


def test_encoding_several_pictures_at_once_equals_one_by_one(tiny, concept, other):
    together = tiny.encode_concepts([picture(1), picture(2)], [half_mask(), None])
    for got, expected in zip(together, (concept, other), strict=True):
        torch.testing.assert_close(got.words, expected.words, atol=1e-5, rtol=0)
        torch.testing.assert_close(got.patch_embeddings, expected.patch_embeddings, atol=1e-5, rtol=0)
    background = together[0].patch_embeddings.view(4, 4, WIDTH)[:, 2:]
    assert (background == 0).all() and (together[0].patch_embeddings.view(4, 4, WIDTH)[:, :2] != 0).any()


# --- what the base class gives: one test each -------------------------------------------------------------------


def test_negative_prompts_work(tiny, concept):
    plain = generate(tiny, concept=concept)
    negative = generate(tiny, concept=concept, negative_prompt="dark")
    assert not torch.allclose(plain, negative, atol=1e-3)
    both = generate(tiny, [PROMPT, PROMPT], concept=concept, negative_prompt="dark")
    torch.testing.assert_close(both[:1], negative, atol=2e-5, rtol=0)


def test_generators_fix_the_picture(tiny, concept):
    first, second = (
        generate(tiny, concept=concept, generator=torch.Generator().manual_seed(4), output_type="pil") for _ in "ab"
    )
    assert isinstance(first[0], Image.Image) and np.array_equal(first[0], second[0])


def test_callbacks_see_every_step_and_may_switch_guidance_off(tiny, concept):
    seen, batches = [], []

    def watch(pipe, step, t, tensors):
        seen.append(step)
        return {}

    def stop_guidance(pipe, step, t, tensors):
        if step > 0:
            return {}
        pipe._guidance_scale = 0.0  # diffusers' documented way
        return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[-1]}

    generate(tiny, concept=concept, num_inference_steps=3, callback_on_step_end=watch)
    assert seen == list(range(len(seen))) and len(seen) >= 3
    handle = tiny.unet.register_forward_hook(lambda module, args, out: batches.append(len(out[0])))
    try:
        generate(
            tiny,
            concept=concept,
            num_inference_steps=3,
            callback_on_step_end=stop_guidance,
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        )
    finally:
        handle.remove()
    assert batches[0] == 2 and set(batches[1:]) == {1}


def test_lora_weights_count_beside_a_concept(fresh, concept, tmp_path):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    plain = generate(fresh, concept=concept)
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["attn2.to_k", "attn2.to_v"], init_lora_weights=False)
    fresh.unet.add_adapter(config)
    ElitePipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(fresh.unet))
    fresh.unet.delete_adapters("default")
    torch.testing.assert_close(generate(fresh, concept=concept), plain)
    fresh.load_lora_weights(tmp_path)
    with_lora = generate(fresh, concept=concept)
    assert not torch.allclose(with_lora, plain, atol=1e-3)
    half = generate(fresh, concept=concept, cross_attention_kwargs={"scale": 0.5})
    assert not torch.allclose(with_lora, half, atol=1e-3)
    fresh.fuse_lora(lora_scale=0.5)
    torch.testing.assert_close(generate(fresh, concept=concept), half, atol=1e-4, rtol=0)
    with pytest.raises(RuntimeError, match="call unfuse_lora first"):  # the base model alone would keep the update
        fresh.unload_lora_weights()
    torch.testing.assert_close(generate(fresh, concept=concept), half, atol=1e-4, rtol=0)
    fresh.unfuse_lora()
    fresh.unload_lora_weights()
    torch.testing.assert_close(generate(fresh, concept=concept), plain, atol=1e-4, rtol=0)


def test_concepts_on_several_devices_come_to_where_the_pipeline_computes(fresh, concept, other, monkeypatch):
    class Reached(Exception):
        pass

    def encode(encoder, tokenized, words):
        assert words.is_meta and words.shape[0] == 3
        raise Reached

    monkeypatch.setattr(ElitePipeline, "_execution_device", property(lambda pipe: torch.device("meta")))
    monkeypatch.setattr("elite.pipeline.encode_prompts", encode)
    with pytest.raises(Reached):
        generate(fresh, [PROMPT] * 3, concept=[concept, other.to("meta"), concept])


def test_offload_gives_the_same_picture(fresh, concept):
    plain = generate(fresh, concept=concept)
    fresh.enable_model_cpu_offload(device="cpu")  # the hooks are those of a GPU
    encoded = fresh.encode_concept(picture(1), half_mask())
    torch.testing.assert_close(encoded.words, concept.words)
    torch.testing.assert_close(generate(fresh, concept=encoded), plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_in_every_part(fresh, dtype):
    fresh.to(dtype)
    encoded = fresh.encode_concept(picture(1), half_mask())
    assert encoded.words.dtype == encoded.patch_embeddings.dtype == dtype
    assert {p.dtype for p in fresh.adapter.parameters()} == {dtype}
    out = generate(fresh, concept=encoded, latents=None, generator=torch.Generator().manual_seed(0))
    assert out.dtype == dtype and out.isfinite().all()


# --- errors, before any work ------------------------------------------------------------------------------------


@pytest.fixture
def no_work(tiny, monkeypatch):
    """Fails the test when the UNet or the text encoder runs."""

    def refuse(*args, **kwargs):
        raise AssertionError("work was done before the error")

    monkeypatch.setattr(tiny.unet, "forward", refuse)
    monkeypatch.setattr(tiny.text_encoder, "forward", refuse)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prompt": "a photo of a dog"}, "no placeholder"),
        ({"prompt": "S* and S*"}, "2 times"),
        ({"prompt": "S* " + "x " * 40}, "too long by"),
        ({"prompt": "S*" + " x" * 28, "words": "all"}, "too long by"),
        ({"prompt": []}, "prompt must be a text"),
        ({"prompt": [5]}, r"prompt must be a text or a list of texts .* got \[5\]"),
        ({"num_inference_steps": -1}, "num_inference_steps must be a whole number"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be a whole number"),
        ({"guidance_scale": "5"}, "guidance_scale must be a finite number, got '5'"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number, got nan"),
        ({"fusion_weight": float("nan")}, "fusion_weight must be a finite number"),
        ({"fusion_weight": [0.1, 0.2]}, "fusion_weight has 2 numbers"),
        ({"words": "w5"}, "words asks for 'w5'"),
        ({"clip_skip": 1}, "clip_skip cannot be used"),
        ({"prompt_embeds": draw(1, 32, WIDTH)}, "not prompt_embeds"),
        ({"prompt": ["S*", "S*"], "concept": "list"}, "list of 1, but there are 2"),
        ({"prompt": "<a> and <b>", "concept": "mapping"}, "one subject a prompt"),
        ({"concept": "stranger"}, "made by the encoder"),
    ],
)
def test_wrong_calls_are_refused_before_any_work(tiny, concept, no_work, options, sentence):
    forms = {
        "list": [concept],
        "mapping": {"<a>": concept, "<b>": concept},
        "stranger": Concept(concept.words, concept.patch_embeddings, {"encoder": "0123456789abcdef"}),
    }
    options = {"prompt": PROMPT, **options, "concept": forms.get(options.get("concept"), concept)}
    with pytest.raises(ValueError, match=sentence):
        generate(tiny, **options)


def test_an_argument_written_wrong_is_not_dropped_unseen(tiny, concept, no_work):
    with pytest.raises(TypeError, match="unexpected keyword argument 'fusion_wieght'"):
        generate(tiny, concept=concept, fusion_wieght=0.2)


def test_negative_steps_are_refused_without_a_concept_too(tiny, no_work):
    with pytest.raises(ValueError, match="num_inference_steps must be a whole number"):
        tiny("a dog", num_inference_steps=-2)


def test_replaced_processors_are_noticed_at_the_next_call_and_attach_puts_them_back(fresh, concept, tmp_path):
    before, plain = generate(fresh, concept=concept), generate(fresh)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fresh.enable_attention_slicing()
    with pytest.raises(RuntimeError, match=r"call adapter\.attach"):
        generate(fresh, concept=concept)
    with pytest.raises(RuntimeError, match="instead of ELITE's"):
        fresh.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    fresh.adapter.attach(fresh.unet)
    torch.testing.assert_close(generate(fresh, concept=concept), before, atol=1e-5, rtol=0)
    torch.testing.assert_close(generate(fresh), plain, atol=1e-5, rtol=0)  # sliced, by the processors beneath


def test_masks_that_leave_no_patch_are_refused(tiny):
    speck = Image.new("L", (40, 40))
    speck.putpixel((7, 7), 255)
    with pytest.raises(ValueError, match="the object is too small"):
        tiny.encode_concept(picture(size=(40, 40)), speck)
    with pytest.raises(ValueError, match="they must be equal"):
        tiny.encode_concept(picture(), half_mask((16, 20)))
    with pytest.raises(ValueError, match="masks must be one for each"):
        tiny.encode_concepts([picture()], [None, None])


def test_an_adapter_of_another_model_is_refused(tiny, fresh):
    other = {"image_encoder": fingerprint([tiny_image_encoder()])}  # of the same shape, with other weights
    for change, sentence in (
        ({"input_dim": 21}, "image encoder of width 21"),
        ({"layers": (9,)}, "layers holds 9"),
        (other, "trained with another image_encoder"),
    ):
        with pytest.raises(ValueError, match=sentence):
            fresh.attach_adapter(EliteAdapter(**{**tiny.adapter.config, "hidden_dim": 8, **change}))
    check_processors(fresh.unet)


def test_a_refused_adapter_leaves_the_one_before_in_place(tiny, fresh, concept):
    before, old = generate(fresh, concept=concept), fresh.adapter
    config = {**old.config, "attention": dict.fromkeys(old.config.attention, 7)}
    with pytest.raises(ValueError, match="made for another base model"):
        fresh.attach_adapter(EliteAdapter(**config))
    assert fresh.adapter is old
    assert torch.equal(generate(fresh, concept=concept), before)


def test_an_adapter_that_was_replaced_takes_nothing_with_it(fresh):
    old = fresh.adapter
    fresh.attach_adapter(copy.deepcopy(old))
    old.detach()
    check_processors(fresh.unet)
