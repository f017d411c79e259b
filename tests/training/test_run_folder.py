"""A checkpoint is whole or not there, and a damaged one costs only itself."""

from __future__ import annotations

import errno
import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch

from elite.training import run_folder as files
from elite.training.config import TrainingConfig
from elite.training.run_folder import CheckpointError, OutputLockedError, RunFolder
from elite.training.state import optimizer_tensors, restore_optimizer

CONFIG = TrainingConfig("global", warmup=0)


def write(output: Path, adapter, step: int, **options) -> Path:
    tensors = {"weights.a": torch.full((3,), float(step))}
    config = CONFIG.with_changes(**options)
    return RunFolder(output).save(step, tensors, adapter, config, {"scaler": None})


def test_what_was_written_is_read_bit_for_bit(tiny, tmp_path):
    write(tmp_path, tiny.adapter, 7)
    found = RunFolder(tmp_path).last()
    assert (found.step, found.extra) == (7, {"scaler": None})
    assert torch.equal(found.tensors["weights.a"], torch.full((3,), 7.0))
    for name, value in tiny.adapter.state_dict().items():
        assert torch.equal(found.adapter.state_dict()[name], value)


def test_the_newest_are_kept(tiny, tmp_path):
    for step in (1, 2, 10, 11):
        write(tmp_path, tiny.adapter, step, keep_checkpoints=2)
    assert [path.name for path in RunFolder(tmp_path).checkpoints] == ["checkpoint-0000011", "checkpoint-0000010"]


def test_a_damaged_one_of_a_later_step_does_not_count_as_kept(tiny, tmp_path):
    (write(tmp_path, tiny.adapter, 4) / files.STATE).unlink()
    write(tmp_path, tiny.adapter, 3, keep_checkpoints=1)
    with pytest.warns(UserWarning, match="checkpoint-0000004 is damaged"):
        assert RunFolder(tmp_path).last().step == 3


def test_what_a_killed_process_was_writing_is_removed(tiny, tmp_path):
    whole = write(tmp_path, tiny.adapter, 1)
    shutil.copytree(whole, tmp_path / ".checkpoint-0000002.77.part")
    with RunFolder(tmp_path).lock():
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", whole.name]


@pytest.mark.parametrize("name", ["training.safetensors", "adapter/diffusion_pytorch_model.safetensors", "state.json"])
def test_a_checkpoint_cut_in_half_is_passed_over_with_a_word(tiny, tmp_path, name):
    write(tmp_path, tiny.adapter, 1)
    path = write(tmp_path, tiny.adapter, 2) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match="checkpoint-0000002 is damaged"):
        assert RunFolder(tmp_path).last().step == 1


def test_a_file_changed_without_changing_its_length_is_noticed(tiny, tmp_path):
    write(tmp_path, tiny.adapter, 1)
    path = write(tmp_path, tiny.adapter, 2) / files.TENSORS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="is not what was written"):
        assert RunFolder(tmp_path).last().step == 1


def test_all_damaged_is_an_error_and_none_at_all_is_not(tiny, tmp_path):
    assert RunFolder(tmp_path).last() is None
    (write(tmp_path, tiny.adapter, 1) / files.STATE).unlink()
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged"):
        RunFolder(tmp_path).last()


@pytest.mark.parametrize("when", ["write_safetensors", "write_json"])
def test_a_full_disk_names_the_checkpoint_that_is_whole_and_leaves_nothing_behind(tiny, tmp_path, monkeypatch, when):
    write(tmp_path, tiny.adapter, 1)

    def full(path, *args, **kwargs):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, when, full)
    with pytest.raises(CheckpointError, match=r"after step 2 cannot .*No space.*checkpoint-0000001 stays as it was"):
        write(tmp_path, tiny.adapter, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-0000001"]
    assert RunFolder(tmp_path).last().step == 1


def _hold(folder: str, ready, done) -> None:
    with RunFolder(folder).lock():
        ready.set()
        done.wait(30)


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), ready, done))
    other.start()
    assert ready.wait(60)
    with pytest.raises(OutputLockedError, match="another process"), RunFolder(tmp_path).lock():
        pass
    other.kill()
    other.join()
    with RunFolder(tmp_path).lock():
        pass


def test_other_settings_are_refused_by_name_and_free_ones_are_not(tiny, tmp_path):
    folder = write(tmp_path, tiny.adapter, 1)
    RunFolder(tmp_path).check_settings(CONFIG.with_changes(steps=5000, num_workers=2, checkpoint_every=7), folder)
    with pytest.raises(ValueError, match=r"batch_size \(was 16, now 4\)"):
        RunFolder(tmp_path).check_settings(CONFIG.with_changes(batch_size=4), folder)


def test_the_end_of_a_cosine_is_part_of_every_step(tiny, tmp_path):
    config = CONFIG.with_changes(lr_schedule="cosine")
    folder = RunFolder(tmp_path).save(1, {"weights.a": torch.ones(1)}, tiny.adapter, config)
    RunFolder(tmp_path).check_settings(config, folder)
    with pytest.raises(ValueError, match="steps"):
        RunFolder(tmp_path).check_settings(config.with_changes(steps=5000), folder)


def test_an_adapter_is_found_in_its_folder_and_in_a_run(tiny, tmp_path):
    write(tmp_path / "run", tiny.adapter, 1)
    inside = RunFolder(tmp_path / "run").adapter()
    assert inside == tmp_path / "run/checkpoint-0000001/adapter"
    assert RunFolder(inside).adapter() == inside
    with pytest.raises(FileNotFoundError, match="neither an adapter's folder nor"):
        RunFolder(tmp_path / "nothing").adapter()


def test_adamw_goes_on_from_its_moments_bit_for_bit():
    """Two steps, a new optimiser with the moments of the first, a third step: as torch's own three steps."""
    torch.manual_seed(0)
    gradients = [torch.randn(4) for _ in range(3)]

    def take(parameter, optimizer, some):
        for gradient in some:
            parameter.grad = gradient.clone()
            optimizer.step()

    plain = torch.nn.Parameter(torch.ones(4))
    take(plain, torch.optim.AdamW([plain], 0.1), gradients)
    first = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([first], 0.1)
    take(first, optimizer, gradients[:2])
    kept = {name: value.clone() for name, value in optimizer_tensors(optimizer, {"a": first}).items()}
    second = torch.nn.Parameter(first.detach().clone())
    resumed = torch.optim.AdamW([second], 0.1)
    restore_optimizer(resumed, {"a": second}, kept)
    take(second, resumed, gradients[2:])
    assert torch.equal(plain, second)
    with pytest.raises(CheckpointError, match="another stage"):
        restore_optimizer(resumed, {"b": second}, kept)
