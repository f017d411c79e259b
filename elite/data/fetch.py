"""One file over HTTP: continued where it stopped, tried again after faults, verified before it gets its name."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import requests
from tqdm import tqdm

CHUNK = 1 << 14  # bytes; what a broken connection loses at most
HASH = "x-goog-hash"  # the header in which Google's servers announce checksums
MISSING = (404, 410)
LONGEST_WAIT = 60.0  # seconds between two attempts


class FetchError(RuntimeError):
    """A file could not be downloaded; the message names the address and the last fault."""


class NotOnServerError(FetchError):
    """The server says that it does not have the file."""


class _Retry(Exception):
    """A fault that may pass; ``wait`` is how long the server asks to wait, in seconds, or None."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Fetcher:
    """Downloads files; safe to use from several threads.

    Retries are our own: ``urllib3.util.Retry`` repeats a request from its first byte and counts requests. Here a retry
    continues where the file was cut, and only attempts that get no further count.

    Args:
        attempts: how often a file is tried without getting further, or begun anew, at least 1.
        backoff: seconds before the second attempt; doubled after each.
        timeout: seconds a server may stay silent.
    """

    def __init__(self, attempts: int = 5, backoff: float = 1.0, timeout: float = 30.0) -> None:
        if attempts < 1 or backoff < 0 or timeout <= 0:
            raise ValueError(
                f"attempts, backoff, timeout are {attempts}, {backoff}, {timeout}; use attempts >= 1, backoff >= 0, "
                "timeout > 0."
            )
        self.attempts, self.backoff, self.timeout = attempts, backoff, timeout
        self._local = threading.local()
        self._lock = threading.Lock()

    def fetch(self, url: str, path: Path, verify: Callable[[Path], None], bar: tqdm | None = None) -> bool:
        """Download ``url`` to ``path``, unless it is there.

        What has arrived stays in ``<path>.part`` when the program is killed, and the next call asks for the rest
        alone, provided that the server still has the same file (``If-Range``). The name ``path`` appears only when
        the size is what the server announced, the MD5 too where it announced one (``x-goog-hash``, as the server of
        the tables and archives does), and ``verify(part)`` has not raised ValueError.

        Args:
            url: address.
            path: destination; its folder is created.
            verify: raises ValueError, with the reason, for a file that is not what it should be.
            bar: counts bytes.

        Returns:
            True when it was downloaded, False when it was there already.

        Raises:
            NotOnServerError: 404 or 410.
            FetchError: another answer that will not change, or the last attempt failed as well.
        """
        if path.is_file():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        failures, restarts, reached = 0, 0, _size(part)
        while True:
            try:
                self._attempt(url, part, bar)
                try:
                    verify(part)
                except ValueError as error:
                    part.unlink()
                    raise _Retry(f"the file is damaged: {error}") from error
                part.replace(path)
                _tag_path(part).unlink(missing_ok=True)
                return True
            except (_Retry, requests.RequestException) as error:
                # A large file may take many connections: only attempts that get no further count. Those that lost
                # what had arrived count apart, or a server that cuts and never continues would be asked forever.
                size = _size(part)
                failures = 1 if size > reached else failures + 1
                restarts += size < reached
                reached = size
                if max(failures, restarts) >= self.attempts:
                    raise FetchError(f"{url} failed {max(failures, restarts)} times, last: {error}") from error
                wished = getattr(error, "wait", None)
                wait = self.backoff * 2 ** (failures - 1) if wished is None else wished
                time.sleep(min(wait, LONGEST_WAIT))

    def _attempt(self, url: str, part: Path, bar: tqdm | None) -> None:
        """One request; raises _Retry or a requests exception when the file is not complete afterwards."""
        start, tag = _size(part), _read_tag(part).get("tag")
        headers = {"Accept-Encoding": "identity"}  # sizes and offsets are those of the file itself
        if start and tag:
            headers |= {"Range": f"bytes={start}-", "If-Range": tag}
        with self._session().get(url, headers=headers, stream=True, timeout=self.timeout) as response:
            start, total = self._check(url, response, start, part)
            if start == 0:
                # Emptied before the tag is written: a kill in between must not join an old beginning to a new tag.
                part.write_bytes(b"")
                _write_tag(part, response.headers)
            if bar is not None:
                with self._lock:
                    bar.total = (bar.total or 0) + (total or start) - start
            if start != total:  # else all of it is here, and what the answer holds is not the file
                with part.open("ab") as file:
                    for chunk in response.iter_content(CHUNK):
                        file.write(chunk)
                        if bar is not None:
                            bar.update(len(chunk))
        size = _size(part)
        if total is not None and size != total:
            if size > total:
                part.unlink()
            raise _Retry(f"{size} of {total} bytes arrived")
        # A refusal (416) announces nothing: what the first answer announced holds.
        announced = _announced_md5(response.headers.get(HASH) or _read_tag(part).get(HASH, ""))
        if announced is not None and _md5(part) != announced:
            part.unlink()
            raise _Retry("the file is damaged: its MD5 is not the one that the server announced")

    def _check(self, url: str, response: requests.Response, start: int, part: Path) -> tuple[int, int | None]:
        """The offset from which the answer continues, and the whole size where it is known."""
        status = response.status_code
        if status in MISSING:
            raise NotOnServerError(f"{url} is not on the server (status {status})")
        if status == 416 and start and response.headers.get("Content-Range") == f"bytes */{start}":
            return start, start  # the program was killed between the last byte and the rename
        if status == 416:  # what we have is not the beginning of what the server has
            part.unlink(missing_ok=True)
            raise _Retry("the server refused to continue the file (status 416)", wait=0.0)
        if status == 429 or status >= 500:
            after = response.headers.get("Retry-After", "")
            raise _Retry(f"status {status}", wait=float(after) if after.isdecimal() else None)
        if status == 206:
            span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            if span.partition("-")[0] != str(start):
                part.unlink(missing_ok=True)
                raise _Retry(f"the server continued at {span!r} instead of byte {start}", wait=0.0)
            return start, int(total) if total.isdecimal() else None
        if status != 200:
            raise FetchError(f"{url} was answered with status {status} {response.reason}")
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()  # one a thread: sessions are not meant to be shared
        return self._local.session


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _announced_md5(header: str) -> bytes | None:
    """The MD5 in Google's ``x-goog-hash: crc32c=…, md5=…`` (base64), or None."""
    for item in header.split(","):
        kind, _, value = item.strip().partition("=")
        if kind == "md5":
            return base64.b64decode(value)
    return None


def _md5(part: Path) -> bytes:
    with part.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()


def _tag_path(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _read_tag(part: Path) -> dict[str, str]:
    """The version of the file that ``part`` begins, and its announced hash; without it nothing is continued."""
    try:
        return json.loads(_tag_path(part).read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _write_tag(part: Path, headers: requests.structures.CaseInsensitiveDict) -> None:
    tag = headers.get("ETag", "")
    if tag.startswith("W/") or not tag:  # a weak tag may not be used in If-Range
        tag = headers.get("Last-Modified", "")
    if tag:
        _tag_path(part).write_text(json.dumps({"tag": tag, HASH: headers.get(HASH, "")}))
    else:
        _tag_path(part).unlink(missing_ok=True)
