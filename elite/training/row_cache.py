"""Tensors for the rows of a data set, computed once and kept on disk, in files of some rows each.

A file is written whole or not at all, so a run that was stopped goes on with the missing files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from elite.data.samples import Samples, collate
from elite.io.tensors import write_safetensors

ROWS = 128  # of one file
VALID = "valid"  # 1 where a row was computed, 0 where its files could not be read

Compute = Callable[[dict[str, Any]], dict[str, Tensor]]  # a collated batch -> tensors with a row for each sample
Progress = Callable[[Iterable[int]], Iterable[int]]  # wraps what is done one by one, as tqdm does


class RowCache:
    """Tensors for the rows of a data set, on disk.

    Args:
        folder: of this cache alone.
        length: rows of the data set.
    """

    def __init__(self, folder: str | Path, length: int) -> None:
        self.folder, self.length = Path(folder), length
        self._open: dict[int, Any] = {}

    def shard(self, number: int) -> Path:
        """File of the rows from ROWS · number on."""
        return self.folder / f"rows-{number:05d}.safetensors"

    def missing(self) -> list[int]:
        """Numbers of the shards that are missing or lack rows: what could not be read once is tried again."""
        return [number for number in range(self.shards) if not self._whole(number)]

    @property
    def shards(self) -> int:
        """How many files there are in all."""
        return -(-self.length // ROWS)

    def fill(
        self,
        samples: Samples,
        compute: Compute,
        dtype: torch.dtype = torch.float32,
        batch_size: int = 16,
        progress: Progress = iter,
        shards: Sequence[int] | None = None,
    ) -> None:
        """Compute and write the missing shards; each is written under a temporary name and renamed.

        Args:
            samples: the data set; rows with broken files are left out, and tried again by the next call.
            compute: gives the tensors of a batch.
            dtype: type they are kept in.
            batch_size: samples computed at once.
            progress: wraps the numbers of the shards, as tqdm does.
            shards: of these only the missing ones; by default all. Several processes can share the work.

        Raises:
            OSError: when a file cannot be written; the shards written before stay usable.
            TooManyBrokenFilesError: as the data set raises it.
        """
        wanted = self.missing() if shards is None else [n for n in self.missing() if n in set(shards)]
        for number in progress(wanted):
            rows = range(number * ROWS, min((number + 1) * ROWS, self.length))
            tensors = _computed(samples, rows, compute, dtype, batch_size)
            self._open.pop(number, None)
            try:
                write_safetensors(self.shard(number), tensors)
            except SafetensorError as error:
                raise OSError(f"{self.shard(number)} cannot be written: {error}") from error

    def __call__(self, rows: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """The tensors of some rows, in float32, stacked in the order asked for.

        Raises:
            FileNotFoundError: when the cache has not been filled yet.
            ValueError: when one of its files is damaged, or a row's pictures could not be read.
            IndexError: for a row the data set does not have.
        """
        found = [self._row(int(row)) for row in rows]
        return {name: torch.stack([values[name] for values in found]).float() for name in found[0]}

    def _row(self, row: int) -> dict[str, Tensor]:
        if not 0 <= row < self.length:
            raise IndexError(f"row is {row}; this cache has rows 0 to {self.length - 1}.")
        number, offset = divmod(row, ROWS)
        file = self._open.get(number) or self._load(number)
        values = {name: file.get_slice(name)[offset] for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        if not values.pop(VALID):
            raise ValueError(f"row {row} has no values in {self.shard(number)}: its files could not be read before.")
        return values

    def _whole(self, number: int) -> bool:
        path = self.shard(number)
        if not path.is_file():
            return False
        try:
            with safe_open(str(path), framework="pt") as file:
                return bool(file.get_tensor(VALID).all())
        except SafetensorError:
            return True  # damaged: `_load` says so when it is needed

    def _load(self, number: int) -> Any:
        path = self.shard(number)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: the cache is not filled; call fill before.")
        # Mapped, not read: rows come from the disk, or from the system's own cache, as they are asked for.
        try:
            self._open[number] = safe_open(str(path), framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); delete it, and it is computed again.") from error
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # other processes open the files for themselves


def _computed(
    samples: Samples, rows: Sequence[int], compute: Compute, dtype: torch.dtype, batch_size: int
) -> dict[str, Tensor]:
    """The tensors of some rows, and which of them are valid; zeros for rows whose files are broken."""
    tensors: dict[str, Tensor] = {VALID: torch.zeros(len(rows), dtype=torch.uint8)}
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        found = [samples[row] for row in part]
        with torch.no_grad():
            computed = compute(collate(found))
        # A broken row is answered by the next one, which says so in its "index".
        usable = torch.tensor([sample["index"] == row for sample, row in zip(found, part, strict=True)])
        tensors[VALID][start : start + len(part)] = usable
        for name, value in computed.items():
            value = value.to("cpu", dtype)
            if name not in tensors:
                tensors[name] = torch.zeros(len(rows), *value.shape[1:], dtype=dtype)
            tensors[name][start : start + len(part)][usable] = value[usable]
    return tensors
