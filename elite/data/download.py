"""A subset of Open Images: the tables, the pictures chosen from them, and the masks of those pictures alone."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock, Timeout
from PIL import Image
from tqdm import tqdm

from elite.data.fetch import Fetcher, FetchError, NotOnServerError
from elite.data.index import labels_of, read_class_names, scan_table, select_boxes
from elite.data.layout import BOX_COLUMNS, MASK_COLUMNS, OpenImagesFolder, OpenImagesServer
from elite.io.files import replacing, write_json

ARCHIVE_THREADS = 2  # the archives are large: more at once only makes each slower
# What zipfile raises for damage besides BadZipFile; RuntimeError where a flipped bit says encrypted or unsupported.
ZIP_DAMAGE = (zlib.error, EOFError, RuntimeError)


class DownloadStoppedError(RuntimeError):
    """Too many files failed to go on; the message names the first few."""


@dataclass
class DownloadReport:
    """What a call of :func:`download_open_images` did.

    Attributes:
        chosen: pictures that the subset asks for.
        downloaded, present: pictures downloaded by this call, and those that were there before.
        missing: ids of pictures that the server does not have.
        failed: id or archive name -> last fault; asked for again by the next call.
        masks: masks of the pictures at hand, now in the folder.
        missing_masks: names that are in the table but not in the archives.
    """

    chosen: int = 0
    downloaded: int = 0
    present: int = 0
    missing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    masks: int = 0
    missing_masks: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One paragraph for people."""
        pictures = f"{self.chosen:,} pictures chosen: {self.downloaded:,} downloaded, {self.present:,} were there, "
        pictures += f"{len(self.missing):,} are not on the server, {len(self.failed):,} failed"
        lines = [pictures, f"{self.masks:,} masks in the folder, {len(self.missing_masks):,} not in the archives"]
        lines += [f"  failed: {name}: {fault}" for name, fault in list(self.failed.items())[:5]]
        if self.failed:
            lines.append("  run the same command again to try the failed ones")
        return "\n".join(lines)


def download_open_images(
    output: str | Path,
    limit: int = 2000,
    classes: Sequence[str] | None = None,
    server: OpenImagesServer | None = None,
    threads: int = 16,
    max_failed: float = 0.05,
    fetcher: Fetcher | None = None,
    progress: bool = True,
    keep_archives: bool = True,
) -> DownloadReport:
    """Download the first ``limit`` usable pictures and their masks; call it again to continue a stopped download.

    A picture is usable when it has a box of 2 to 80 % of its area and a mask, both of a class asked for. They are
    taken in the order of their ids. Ids are random, so this is a fair draw, and it needs the fewest mask archives,
    which are sorted by the first digit of the id.

    Args:
        output: folder, laid out as :class:`elite.data.layout.OpenImagesFolder`; created if needed.
        limit: number of pictures.
        classes: names ("Dog") or labels ("/m/0bt9lr"); None for all.
        server: addresses and split; the public servers' test split by default.
        threads: pictures downloaded at once.
        max_failed: share of the chosen pictures that may fail before the download stops; missing ones do not count.
        fetcher: attempts, waiting times and timeout.
        progress: show bars.
        keep_archives: False removes a mask archive after its masks were taken out.

    Returns:
        the report, which also goes to ``download.json`` in ``output``.

    Raises:
        ValueError: a limit or number of threads below 1, an unknown class, or no usable picture.
        FetchError: a table cannot be downloaded.
        DownloadStoppedError: too many pictures failed.
        RuntimeError: another process is downloading into ``output``.
    """
    if limit < 1 or threads < 1:
        raise ValueError(f"limit, threads are {limit}, {threads}; both must be at least 1.")
    server, fetcher = server or OpenImagesServer(), fetcher or Fetcher()
    folder = OpenImagesFolder(Path(output), server.split)
    folder.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.root / ".download.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RuntimeError(f"another process is downloading into {folder.root}; wait for it to end.") from error
    try:
        for left in folder.masks_dir.glob(".*.part"):  # of a process that was killed
            left.unlink()
        labels = _fetch_tables(folder, server, fetcher, classes, progress)
        chosen = choose_images(folder, limit, labels)
        report = DownloadReport(chosen=len(chosen))
        _fetch_images(folder, server, fetcher, chosen, threads, max_failed, progress, report)
        _fetch_masks(folder, server, fetcher, chosen, labels, progress, keep_archives, report)
        write_json(folder.root / "download.json", asdict(report))
        return report
    finally:
        lock.release()


def choose_images(folder: OpenImagesFolder, limit: int, labels: Sequence[str] | None = None) -> list[str]:
    """The ids of the first ``limit`` usable pictures; raises ValueError where there is none."""
    boxes, _ = select_boxes(scan_table(folder.boxes), labels)
    masks = _mask_table(folder, labels)
    usable = boxes.join(masks, left_on="image_id", right_on="ImageID", how="semi")
    chosen = usable.get_column("image_id").unique().sort().head(limit).to_list()
    if not chosen:
        raise ValueError("classes leaves no picture with a box of 2 to 80 % of its area and a mask; ask for others.")
    return chosen


def _mask_table(folder: OpenImagesFolder, labels: Sequence[str] | None) -> pl.DataFrame:
    scan = scan_table(folder.masks).select("ImageID", "LabelName", "MaskPath")
    if labels is not None:
        scan = scan.filter(pl.col("LabelName").is_in(list(labels)))
    return scan.collect()


def _fetch_tables(
    folder: OpenImagesFolder, server: OpenImagesServer, fetcher: Fetcher, classes: Sequence[str] | None, progress: bool
) -> list[str] | None:
    """Download the three tables, the smallest first: an unknown class is noticed before the large ones."""
    with _bar("tables", progress, unit="B", unit_scale=True) as bar:
        fetcher.fetch(server.classes, folder.classes, verify_class_table, bar)
        labels = None if classes is None else labels_of(classes, read_class_names(folder.classes))
        fetcher.fetch(server.masks, folder.masks, table_verifier(MASK_COLUMNS), bar)
        fetcher.fetch(server.boxes, folder.boxes, table_verifier(BOX_COLUMNS), bar)
    return labels


def _fetch_images(
    folder: OpenImagesFolder,
    server: OpenImagesServer,
    fetcher: Fetcher,
    chosen: Sequence[str],
    threads: int,
    max_failed: float,
    progress: bool,
    report: DownloadReport,
) -> None:
    def one(image_id: str) -> bool:
        return fetcher.fetch(server.image(image_id), folder.image(image_id), verify_jpeg)

    with _bar("pictures", progress, total=len(chosen)) as bar:
        for image_id, result in _in_parallel(one, chosen, threads):
            bar.update()
            if isinstance(result, NotOnServerError):
                report.missing.append(image_id)
            elif isinstance(result, FetchError):
                report.failed[image_id] = str(result)
                if len(report.failed) > max(3, max_failed * len(chosen)):
                    raise DownloadStoppedError(f"too many pictures failed.\n{report.summary()}")
            elif result:
                report.downloaded += 1
            else:
                report.present += 1
    report.missing.sort()


def _fetch_masks(
    folder: OpenImagesFolder,
    server: OpenImagesServer,
    fetcher: Fetcher,
    chosen: Sequence[str],
    labels: Sequence[str] | None,
    progress: bool,
    keep_archives: bool,
    report: DownloadReport,
) -> None:
    """Extract the masks of the pictures at hand; archives from which nothing is needed are not downloaded."""
    at_hand = [image_id for image_id in chosen if folder.image(image_id).is_file()]
    table = _mask_table(folder, labels)
    rows = table.filter(pl.col("ImageID").is_in(at_hand)).select("ImageID", "MaskPath").unique().sort("MaskPath")
    wanted: dict[str, list[str]] = {}
    for image_id, name in rows.iter_rows():
        if folder.mask(name).is_file():
            report.masks += 1
        else:
            wanted.setdefault(image_id[0].lower(), []).append(name)

    def one(digit: str) -> tuple[int, list[str]]:
        archive = folder.mask_archive(digit)
        for last in (False, True):
            fetcher.fetch(server.mask_archive(digit), archive, verify_zip, bar)
            try:
                done, missing = extract_masks(archive, wanted[digit], folder.masks_dir)
                break
            except zipfile.BadZipFile as error:  # a sound directory, damaged contents: once more from the start
                archive.unlink()
                if last:
                    raise FetchError(f"{archive.name} is damaged: {error}") from error
        if not keep_archives:
            archive.unlink()
        return done, missing

    with _bar("mask archives", progress, unit="B", unit_scale=True) as bar:
        for digit, result in _in_parallel(one, sorted(wanted), ARCHIVE_THREADS):
            if isinstance(result, FetchError):
                report.failed[folder.mask_archive(digit).name] = str(result)
            else:
                report.masks += result[0]
                report.missing_masks += result[1]
    report.missing_masks.sort()


def extract_masks(archive: Path, names: Iterable[str] | None, output: Path) -> tuple[int, list[str]]:
    """Extract the named files (None: every PNG) from a zip, wherever in it they lie; existing files are kept.

    Returns:
        how many of them are now in ``output``, and the names that the zip does not have.

    Raises:
        zipfile.BadZipFile: the archive or a member (by its checksum) is damaged.
    """
    done, missing = 0, []
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = {Path(info.filename).name: info for info in zipped.infolist()}
            for name in sorted(n for n in members if n.endswith(".png")) if names is None else names:
                if name not in members:
                    missing.append(name)
                    continue
                if not (output / name).is_file():
                    with replacing(output / name) as temporary:
                        temporary.write_bytes(zipped.read(members[name]))  # read() checks the CRC
                done += 1
    except ZIP_DAMAGE as error:
        raise zipfile.BadZipFile(f"what it holds cannot be read ({error!r})") from error
    return done, missing


def _in_parallel(work: Callable, items: Sequence[str], threads: int) -> Iterable[tuple[str, Any]]:
    """(item, result or FetchError) as they come; nothing new is begun once the reader stops or an error passes."""
    pool = ThreadPoolExecutor(threads)
    try:
        futures = {pool.submit(work, item): item for item in items}
        for future in as_completed(futures):
            error = future.exception()
            if error is not None and not isinstance(error, FetchError):
                raise error
            yield futures[future], error or future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _bar(name: str, progress: bool, **options: object) -> tqdm:
    return tqdm(desc=name, disable=not progress, **options)


def table_verifier(columns: Sequence[str]) -> Callable[[Path], None]:
    """A check that a CSV's header line has ``columns``; it raises ValueError naming the first that is missing."""

    def verify(path: Path) -> None:
        with path.open(encoding="utf-8", errors="replace") as file:
            header = file.readline().strip().split(",")
        lacking = [column for column in columns if column not in header]
        if lacking:
            raise ValueError(f"the table has no column {lacking[0]}; its first line is {','.join(header)[:80]!r}")

    return verify


def verify_class_table(path: Path) -> None:
    """Raise ValueError unless the first line is a label and a name."""
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline().strip()
    label, comma, name = first.partition(",")
    if not (comma and name and (label.startswith("/m/") or label == "LabelName")):
        raise ValueError(f"the table of classes begins with {first[:80]!r} instead of a label and a name")


def verify_jpeg(path: Path) -> None:
    """Raise ValueError unless the whole file decodes."""
    try:
        with Image.open(path, formats=["JPEG"]) as picture:
            picture.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"no JPEG that can be read: {error}") from error


def verify_zip(path: Path) -> None:
    """Raise ValueError unless the archive's directory can be read."""
    try:
        zipfile.ZipFile(path).close()
    except (zipfile.BadZipFile, *ZIP_DAMAGE) as error:
        raise ValueError(str(error)) from error
