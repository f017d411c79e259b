"""The weights folder: loads as a stock pipeline, notices every changed byte, is replaced whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from elite import toybox
from elite.adapter import EliteAdapter
from elite.io import checksums
from elite.pipeline import ElitePipeline
from elite.toybox import bundle
from elite.toybox.backbone_training.tokenizer import build_tokenizer, world_captions
from elite.toybox.judge import Judge
from elite.toybox.metrics import accuracy, psnr, top1_true, triplet_accuracy

LABELS = ["class: cat", "class: dog", "scene: none", "scene: on the beach", "accessory: none"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete weights folder of the frozen shapes with random weights."""
    path = tmp_path_factory.mktemp("weights") / "weights"
    bundle.random_weights(path, build_tokenizer(world_captions()), LABELS)
    return path


def test_the_folder_is_a_stock_pipeline_in_float32(folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    assert {getattr(pipeline, name).dtype for name in bundle.PIPELINE_PARTS} == {torch.float32}
    assert pipeline.safety_checker is None and not pipeline.config.requires_safety_checker
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a dog", num_inference_steps=1, output_type="np").images
    assert image.shape == (1, 64, 64, 3)


def test_files_are_half_precision_and_small_enough(folder: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 32e6


def test_a_flipped_byte_is_noticed_and_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    target = tmp_path / "part" / "file.bin"
    target.write_bytes(bytes(range(200)))
    checksums.write_checksums(tmp_path)
    checksums.check_checksums(tmp_path)
    content = bytearray(target.read_bytes())
    content[123] ^= 1
    target.write_bytes(content)
    with pytest.raises(toybox.ChecksumError, match=r"file\.bin does not match"):
        checksums.check_checksums(tmp_path)


def test_missing_and_unlisted_files_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(toybox.ChecksumError, match="no SHA256SUMS"):
        checksums.check_checksums(tmp_path)
    (tmp_path / "one").write_text("1")
    checksums.write_checksums(tmp_path)
    (tmp_path / "two").write_text("2")
    with pytest.raises(toybox.ChecksumError, match="two is not listed"):
        checksums.check_checksums(tmp_path)
    (tmp_path / "two").unlink()
    (tmp_path / "one").unlink()
    with pytest.raises(toybox.ChecksumError, match="one is missing"):
        checksums.check_checksums(tmp_path)


def test_replacing_a_part_keeps_the_others_and_renews_the_sums(folder: Path) -> None:
    from elite.toybox.backbone_training.shapes import build_judge

    before = (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    judge = build_judge([*LABELS, "accessory: wearing a hat"])
    bundle.update_weights(folder, {"judge": judge})
    checksums.check_checksums(folder)
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == before
    assert toybox.load_judge(folder).answers("accessory") == ["none", "wearing a hat"]
    assert not list(folder.parent.glob(".weights-*"))


def test_where_the_new_folder_cannot_take_the_place_the_old_one_has_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "note.txt").write_text("old")
    rename = bundle.os.replace

    def failing(source: Path, goal: Path) -> None:
        if "-new-" in source.name:
            raise OSError("disk gone")
        rename(source, goal)

    monkeypatch.setattr(bundle.os, "replace", failing)
    with pytest.raises(OSError, match="disk gone"):
        bundle.update_weights(tmp_path / "weights", {}, {"scale": torch.ones(1)})
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["weights", "weights/note.txt"]


def test_a_folder_lost_between_two_renames_is_named_and_not_begun_anew(tmp_path: Path) -> None:
    """A kill leaves the old folder under its other name: it must not be taken for a first call."""
    left = tmp_path / ".weights-old-17"
    left.mkdir()
    (left / "note.txt").write_text("old")
    calls = [
        lambda path: bundle.update_weights(path, {}, {"scale": torch.ones(1)}),
        lambda path: bundle.update_adapter(path, None),
        lambda path: bundle.random_weights(path, None, LABELS),
    ]
    for call in calls:
        with pytest.raises(FileExistsError, match=r"\.weights-old-17.*Rename that to weights"):
            call(tmp_path / "weights")
        assert list(tmp_path.iterdir()) == [left]
    left.rename(tmp_path / "weights")
    calls[0](tmp_path / "weights")
    assert (tmp_path / "weights" / "note.txt").read_text() == "old"
    assert not list(tmp_path.glob(".weights-*"))


def fresh_adapter(folder: Path, hidden_dim: int = 256) -> EliteAdapter:
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    models = pipeline.unet, pipeline.text_encoder, pipeline.image_encoder
    return EliteAdapter.for_models(*models, hidden_dim=hidden_dim, generator=torch.Generator().manual_seed(5))


def test_an_adapter_is_bundled_in_half_precision_and_loads_with_the_pipeline(folder: Path) -> None:
    from safetensors.torch import load_file

    adapter = fresh_adapter(folder)
    bundle.update_adapter(folder, adapter)
    checksums.check_checksums(folder)
    stored = load_file(folder / "elite" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert sum(path.stat().st_size for path in (folder / "elite").iterdir()) <= 8e6
    assert next(adapter.parameters()).dtype == torch.float32  # the one given stays as it was
    loaded = ElitePipeline.from_pretrained(folder).adapter
    for name, tensor in adapter.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name].float(), tensor, rtol=1e-3, atol=1e-6)
    assert not list(folder.parent.glob(".weights-*"))


def test_an_adapter_of_another_encoder_is_refused_and_the_folder_stays(folder: Path) -> None:
    adapter = fresh_adapter(folder, hidden_dim=8)
    before = (folder / "SHA256SUMS").read_bytes()
    adapter.register_to_config(image_encoder="0" * 16)
    with pytest.raises(ValueError, match="another image_encoder"):
        bundle.update_adapter(folder, adapter)
    adapter.register_to_config(image_encoder="")
    with torch.no_grad():
        adapter.global_mapper.get_parameter(next(iter(dict(adapter.global_mapper.named_parameters())))).fill_(1e6)
    with pytest.raises(ValueError, match="infinite"):
        bundle.update_adapter(folder, adapter)
    assert (folder / "SHA256SUMS").read_bytes() == before
    assert not list(folder.parent.glob(".weights-*"))
    with pytest.raises(FileNotFoundError, match="model_index"):
        bundle.update_adapter(folder.parent / "nowhere", adapter)


def test_an_unknown_part_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'uent'"):
        bundle.update_weights(tmp_path / "weights", {"uent": torch.nn.Linear(1, 1)})
    assert not list(tmp_path.iterdir())


def test_the_bundled_weights_are_the_ones_their_sums_name() -> None:
    assert toybox.verify() == toybox.WEIGHTS


def test_identity_features_have_unit_length(folder: Path) -> None:
    features = toybox.load_identity_encoder(folder)(torch.randn(3, 3, 64, 64))
    assert torch.allclose(features.norm(dim=1), torch.ones(3), atol=1e-5)


def test_the_judge_answers_each_question_among_its_own_labels(folder: Path) -> None:
    judge = toybox.load_judge(folder)
    assert isinstance(judge, Judge)
    verdict = judge(torch.randn(4, 3, 64, 64))
    assert set(verdict.class_name) <= {"cat", "dog"}
    assert set(verdict.scene) <= {"none", "on the beach"}


def test_psnr_counts_only_the_pixels_inside_the_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 4, 4, generator=generator) * 2 - 1
    other = torch.rand(1, 3, 4, 4, generator=generator) * 2 - 1
    mask = torch.zeros(1, 1, 4, 4)
    mask[0, 0, 1, 2] = mask[0, 0, 3, 0] = 1
    total = sum(float((image[0, c, y, x] - other[0, c, y, x]) / 2) ** 2 for c in range(3) for y, x in ((1, 2), (3, 0)))
    expected = -10 * torch.tensor(total / 6).log10()
    assert float(psnr(other, image, mask)) == pytest.approx(float(expected), rel=1e-5)


def test_accuracies_equal_counting() -> None:
    assert accuracy(["a", "b", "c"], ["a", None, "b"]) == 0.5
    similarity = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    assert top1_true(similarity, torch.tensor([[True, False], [True, True]])) == 0.5


def test_triplets_count_only_rivals_of_the_same_class() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    second = torch.tensor([[0.6, 0.8], [0.8, 0.6], [1.0, 0.0]])
    # dog 0: own 0.6 against dog 1's 0.8, lost; dog 1: own 0.6 against dog 0's 0.8, lost; the cat has no rival.
    assert triplet_accuracy(first, second, ["dog", "dog", "cat"]) == 0.0
    assert triplet_accuracy(first, second.flip(0), ["dog", "cat", "dog"]) == 0.5
