"""Files of a local folder or a Hub repository, found in one way."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def find_file(
    source: str | Path, name: str, revision: str | None = None, subfolder: str | None = None, **hub: Any
) -> Path | None:
    """A file of a local folder, or of a Hub repository (downloaded on first use).

    Args:
        source: a folder, or a repository id such as "ELITE-library/ELITE".
        name: file name.
        revision: commit of the repository; ignored for folders.
        subfolder: folder within the source.
        **hub: for ``hf_hub_download``: ``token``, ``cache_dir``, ``local_files_only``; ignored for folders.

    Returns:
        Its local path, or None when the source does not hold it.

    Raises:
        FileNotFoundError: when the source is neither a folder nor a repository.
    """
    folder = Path(source)
    if folder.is_dir():
        path = folder / (subfolder or "") / name
        return path if path.is_file() else None
    if str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
        raise FileNotFoundError(f"{str(source)!r} is neither a folder nor a Hub repository (owner/name).")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(str(source), name, subfolder=subfolder, revision=revision, **hub))
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{str(source)!r} is neither a folder nor a Hub repository that exists.") from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{name} of {str(source)!r} is not in the cache and the Hub cannot be reached."
        ) from error
    except EntryNotFoundError:
        return None
