"""Caches give what would have been computed, and notice when that would be something else."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from elite.data.index import index_boxes, index_masks
from elite.data.samples import GlobalSamples, LocalSamples, SampleSettings, collate
from elite.io.files import cache_folder
from elite.training import row_cache as rows_module
from elite.training.caching import StageCache
from elite.training.draws import noise_and_timesteps, posterior_noise
from elite.training.row_cache import RowCache
from elite.training.steps import StageModule

ROWS = [7, 2, 9]


@pytest.fixture(autouse=True)
def short_shards(monkeypatch):
    monkeypatch.setattr(rows_module, "ROWS", 5)


def make(
    pipe, subset, stage: str, augment: bool = True, **settings
) -> tuple[StageModule, GlobalSamples | LocalSamples]:
    settings = SampleSettings.for_pipeline(pipe, augment=augment, **settings)
    if stage == "global":
        return StageModule(pipe, stage), GlobalSamples(index_boxes(subset), subset, settings)
    return StageModule(pipe, stage), LocalSamples(index_masks(subset, resolution=16), subset, settings)


def filled(*args, **kwargs) -> StageCache:
    cache = StageCache(*args, **kwargs)
    cache.fill(batch_size=4)
    return cache


def losses(module: StageModule, cache: StageCache, samples, step: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss without and with the cache."""
    batch = collate([samples[row, step] for row in ROWS])
    noise, timesteps = noise_and_timesteps(batch["index"], step, 0, module.latent_shape)
    posterior = posterior_noise(batch["index"], step, 0, module.latent_shape)
    plain = module(batch, noise, timesteps, posterior)["loss"]
    return plain, module(cache.extend(batch, posterior), noise, timesteps, posterior)["loss"]


@pytest.mark.parametrize(
    ("stage", "augment", "kinds"),
    [
        ("global", True, {"latents"}),
        ("global", False, {"latents", "features"}),
        ("local", True, set()),
        ("local", False, {"latents", "words"}),
    ],
)
def test_a_step_on_what_is_kept_has_the_loss_of_a_step_on_pictures(fresh, subset, tmp_path, stage, augment, kinds):
    """What an augmentation changes at every step is not kept, so this holds at a later step too."""
    module, samples = make(fresh, subset, stage, augment)
    cache = filled(module, samples, tmp_path / "cache")
    assert set(cache.caches) == kinds
    plain, kept = losses(module, cache, samples)
    torch.testing.assert_close(kept, plain, rtol=1e-5, atol=0)


def test_what_is_kept_takes_the_place_of_its_pictures(fresh, subset, tmp_path):
    module, samples = make(fresh, subset, "global", augment=False)
    batch = filled(module, samples, tmp_path / "cache").extend(collate([samples[row] for row in ROWS]))
    assert set(batch) == {"latents", "features", "prompt", "class_name", "index", "skipped"}
    assert batch["latents"].shape == (3, 4, 8, 8)
    assert [f.shape for f in batch["features"]] == [(3, 17, 20)] * 5


def test_words_may_be_kept_for_the_middle_padding(fresh, subset, tmp_path):
    module, samples = make(fresh, subset, "local", resolution=256)  # large enough for paddings to differ
    batch = collate([samples[row] for row in ROWS])
    kept = filled(module, samples, tmp_path / "cache", words=True).extend(batch)["words"]
    still = make(fresh, subset, "local", augment=False, resolution=256)[1]
    pixels, drawn = (b["pixel_values_clip"] for b in (collate([still[row] for row in ROWS]), batch))
    torch.testing.assert_close(kept, module.words_of(module.features(pixels)), rtol=1e-4, atol=1e-6)
    assert (kept - module.words_of(module.features(drawn))).abs().max() > 1e-3


def test_half_precision_halves_the_files(fresh, subset, tmp_path):
    module, samples = make(fresh, subset, "global")
    sizes = []
    for dtype in (torch.float32, torch.float16):
        cache = filled(module, samples, tmp_path / "cache", dtype=dtype)
        sizes.append(sum(p.stat().st_size for p in cache.caches["latents"].folder.iterdir()))
        plain, kept = losses(module, cache, samples)
        torch.testing.assert_close(kept, plain, rtol=2e-3, atol=0)
    assert sizes[1] < 0.6 * sizes[0]


def folder(cache: StageCache, kind: str):
    return cache.caches[kind].folder


def test_another_model_picture_or_size_has_another_folder(fresh, subset, tmp_path):
    module, samples = make(fresh, subset, "local", augment=False)
    folders = [folder(StageCache(module, samples, tmp_path), "words")]

    def note() -> None:
        folders.append(folder(StageCache(module, samples, tmp_path), "words"))

    note()
    assert folders[0] == folders[1]
    with torch.no_grad():
        next(fresh.adapter.global_mapper.parameters()).mul_(1.0001)  # keeps all signs
    note()
    Image.new("RGB", (90, 80)).save(subset.image(samples.index.frame["image_id"][0]))
    note()
    samples = LocalSamples(samples.index, subset, SampleSettings.for_pipeline(fresh, augment=False, clip_size=32))
    note()
    assert len(set(folders)) == 4


def test_latents_do_not_depend_on_what_is_trained(fresh, subset, tmp_path):
    module, samples = make(fresh, subset, "global")
    before = folder(StageCache(module, samples, tmp_path), "latents")
    with torch.no_grad():
        for parameter in module.trained().values():
            parameter.add_(1)
    assert folder(StageCache(module, samples, tmp_path), "latents") == before


def test_a_stopped_run_goes_on_with_the_missing_files(fresh, subset, tmp_path, monkeypatch):
    module, samples = make(fresh, subset, "global")
    whole = filled(module, samples, tmp_path / "whole").caches["latents"](range(12))
    cache = StageCache(module, samples, tmp_path / "cache")
    asked = []

    def stop_after_one(numbers):
        for number in numbers:
            asked.append(number)
            yield number
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.fill(stop_after_one)
    rows = cache.caches["latents"]
    assert asked == [0] and rows.missing() == [1, 2]
    with pytest.raises(FileNotFoundError, match="not filled"):
        rows([5])
    cache.fill()
    assert rows.missing() == []
    for name, value in rows(range(12)).items():
        torch.testing.assert_close(value, whole[name])


def test_processes_share_the_work(fresh, subset, tmp_path):
    module, samples = make(fresh, subset, "global")
    cache = StageCache(module, samples, tmp_path)
    cache.fill(process=1, processes=2)
    assert cache.caches["latents"].missing() == [0, 2]
    cache.fill(process=0, processes=2)
    assert cache.caches["latents"].missing() == []


def test_a_broken_picture_leaves_the_other_rows_right(fresh, subset, tmp_path):
    module, samples = make(fresh, subset, "global")
    subset.image(samples.index.frame["image_id"][2]).write_bytes(b"no picture")
    samples = GlobalSamples(samples.index, subset, SampleSettings.for_pipeline(fresh, max_broken=0.5))
    cache = filled(module, samples, tmp_path / "cache")
    batch = collate([samples[row] for row in ROWS])
    assert batch["index"].tolist() == [7, 3, 9]  # the next object takes the broken one's place
    plain, kept = losses(module, cache, samples)
    torch.testing.assert_close(kept, plain, rtol=1e-5, atol=0)


def test_a_damaged_file_is_named(fresh, subset, tmp_path):
    module, samples = make(fresh, subset, "global")
    cache = filled(module, samples, tmp_path).caches["latents"]
    path = cache.shard(1)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"rows-00001.safetensors is damaged"):
        cache([6])


def test_a_full_disk_leaves_the_files_before_it(fresh, subset, tmp_path, monkeypatch):
    module, samples = make(fresh, subset, "global")
    cache = StageCache(module, samples, tmp_path)
    write = rows_module.write_safetensors

    def full(path, tensors):
        if "00001" in path.name:
            raise SafetensorError("No space left on device")
        write(path, tensors)

    monkeypatch.setattr(rows_module, "write_safetensors", full)
    with pytest.raises(OSError, match=r"rows-00001.safetensors cannot be written: No space"):
        cache.fill()
    assert cache.caches["latents"].missing() == [1, 2]
    assert cache.caches["latents"]([4])["mean"].abs().sum() > 0


def test_rows_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(IndexError, match="rows 0 to 11"):
        RowCache(tmp_path, 12)([12])


def test_an_open_cache_goes_to_another_process(fresh, subset, tmp_path):
    module, samples = make(fresh, subset, "global")
    cache = filled(module, samples, tmp_path).caches["latents"]
    here = cache([3])
    there = pickle.loads(pickle.dumps(cache))([3])
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_caches_are_kept_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("ELITE_CACHE", str(tmp_path))
    assert cache_folder("training") == tmp_path / "training"
    monkeypatch.setenv("ELITE_CACHE", "")  # as if it were not set
    assert cache_folder("toybox") == Path.home() / ".cache" / "elite" / "toybox"


def test_a_picture_that_could_not_be_read_once_is_tried_again(fresh, subset, tmp_path):
    """It must not stay in the cache as zeros."""
    module, samples = make(fresh, subset, "global", augment=False, max_broken=0.5)
    path = samples.folder.image(samples.index.frame["image_id"][2])
    sharing = [i for i, name in enumerate(samples.index.frame["image_id"]) if samples.folder.image(name) == path]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    try:
        cache = StageCache(module, samples, tmp_path / "cache")
        with pytest.warns(UserWarning, match="the next object is taken"):
            cache.fill(batch_size=4)
    finally:
        path.write_bytes(content)
    latents = cache.caches["latents"]
    with pytest.raises(ValueError, match=f"row {sharing[0]} has no values"):
        latents([sharing[0]])
    assert latents.missing() == [sharing[0] // rows_module.ROWS]
    cache.fill(batch_size=4)
    expected = cache._latents(collate([samples[sharing[0]]]))["mean"]
    torch.testing.assert_close(latents([sharing[0]])["mean"], expected)
