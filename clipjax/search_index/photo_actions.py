"""What `python -m clipjax.search` does: index, query, duplicates, forget, status."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from clipjax import commandline, identity, paths
from clipjax.data.images import perceptual_hash
from clipjax.engine.activity import Activity
from clipjax.preempt import StopRequest
from clipjax.search_index import photo_gallery, same_photos, vector_file
from clipjax.search_index.photo_gallery import Card, Section, Words
from clipjax.search_index.photo_table import Photos, Row, readable
from clipjax.search_index.query_parts import Part, parse
from clipjax.types import UserError

if TYPE_CHECKING:
    from clipjax.search_index.photo_query import Answer, Hit

NOTHING = 1  # the status of a query that nothing matches, as grep's
MOST = 10_000  # photos that a query lists
_NO_FOLDER = "no folder of photos given: index PHOTOS --model MODEL"
_PAGE = 500  # photos on a page, about; their thumbnails are about 15 MB


def index(db: pathlib.Path, names: Sequence[str], values: Any) -> int:
    """Brings the index up to date with folders; the exit status.

    names: the folders; those of the index if empty.
    """
    from clipjax.engine import host  # here: what needs jax

    host.fast_cpu_flags()
    host.keep_memory()
    from clipjax.search_index import index_job
    from clipjax.search_index.index_model import IndexModel

    for flag in ("threads", "batch_size"):
        if values[flag].value < 1:
            raise UserError(f"--{flag}={values[flag].value}: use 1 or more")
    folders = [index_job.folder_of(name) for name in names]
    given = _model_flag(values)
    if not db.parent.is_dir():
        raise UserError(f"{db.parent} is no folder: name another --db")
    console = Console(highlight=False, markup=False)
    is_new = not db.is_file() or not db.stat().st_size
    if is_new and not given:
        commandline.model_flag("", "")  # which says that a model is needed
    if is_new and not folders:
        raise UserError(_NO_FOLDER)
    model = None
    with StopRequest() as stop, Activity(console) as activity:
        if given:
            with activity.doing("reading the model"):
                model = IndexModel.chosen(given, values)
        with Photos(db, write=True) as table:
            if table.new:
                if model is None:  # a killed job left a file without tables
                    commandline.model_flag("", "")
                assert model is not None
                table.begin(model.about())
            about = table.about()
            if model is not None:
                model.check(about, db)
                if about["place"] != model.place:
                    table.set_place(model.place)
            chosen = table.folders()
            if folders:
                chosen = {folder: chosen.get(folder, "") for folder in folders}
            if values["exclude"].present:
                chosen = {folder: values.exclude for folder in chosen}
            if not chosen:
                raise UserError(_NO_FOLDER)
            with vector_file.Vectors(
                vector_file.beside(db), about["width"], write=True
            ) as vectors:
                job = index_job.Job(table, vectors, stop)
                with activity.doing("looking for changes") as task:
                    rows = job.look(chosen, task, reread=values.reread)
                devices = ""
                if rows:
                    if model is None:
                        with activity.doing("reading the model"):
                            model = IndexModel.stored(about, values)
                            model.check(about, db)
                    with activity.doing("compiling"):
                        model.compile()
                    devices = model.devices
                    with activity.doing("encoding") as task:
                        job.encode(rows, model.encoder, model.variables, task)
                lines = job.done.lines(table, devices)
    for line in lines:
        console.print(line, soft_wrap=True)
    return 128 + job.done.stopped_by if job.done.stopped_by else 0


def _model_flag(values: Any) -> str:
    """What --model or --workdir says; "" if neither is given."""
    if not values.model and not values.workdir:
        return ""
    return commandline.model_flag(values.model, values.workdir)


def query(db: pathlib.Path, words: Sequence[str], values: Any) -> int:
    """Prints the photos that are most like a query; the exit status."""
    parts = parse(words)
    prior, threshold = _probability("prior", values.prior), None
    if values.threshold:
        threshold = _probability("threshold", values.threshold)
    if not 1 <= values.top <= MOST:
        raise UserError(f"--top={values.top}: use 1 to {MOST}")
    place = photo_gallery.check(values.html) if values.html else None
    given = _model_flag(values)
    console = Console(stderr=True, highlight=False, markup=False)
    with Photos(db) as table, Activity(console) as activity:
        about = table.about()
        from clipjax.engine import host  # here: what needs jax

        host.fast_cpu_flags()
        from clipjax.search_index.index_model import loaded
        from clipjax.search_index.photo_query import answer

        with activity.doing("reading the model"):
            clip = loaded(about, given, values.match)
            now = identity.identity(
                clip.config, clip.model, clip.variables, clip.tokenizer
            )
            identity.check(about["model"], now, str(db))
        with activity.doing("searching"):
            found = answer(
                table, clip, parts, top=values.top, threshold=threshold, prior=prior
            )
    nothing = "" if found.hits else _nothing(found, threshold)
    if values.paths or values.null:
        _print_paths([hit.row for hit in found.hits], values.null)
        if nothing:
            print(nothing, file=sys.stderr)
    else:
        for line in _table(found.hits):
            print(line)
        if nothing:
            print(nothing)
    if place is not None:
        _query_page(place, parts, found, threshold)
        print(f"written to {place}", file=sys.stderr)
    return 0 if found.hits else NOTHING


def _probability(flag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise UserError(f"--{flag}={text}: use a probability above 0 and below 1")
    return value


def _nothing(found: Answer, threshold: float | None) -> str:
    if not found.searched:
        return "nothing matches: the index has no photos"
    said = f"nothing matches: of {found.searched:,} photos "
    if found.best is None or found.best.probability is None:
        return f"{said}none passes --threshold={threshold:g}"
    return (
        f"{said}{readable(found.best.row.path)} is nearest, with probability "
        f"{found.best.probability:.2g} (--threshold={threshold:g})"
    )


def _table(hits: Sequence[Hit]) -> list[str]:
    """A line per photo: its match probability if known, its cosine, its path."""
    if not hits:
        return []
    judged = hits[0].probability is not None
    lines = ["match  cosine  photo" if judged else "cosine  photo"]
    for hit in hits:
        match = f"{hit.probability:>5.2f}  " if hit.probability is not None else ""
        gone = "" if hit.there else "  (gone)"
        lines.append(f"{match}{hit.cosine:>6.3f}  {readable(hit.row.path)}{gone}")
    return lines


def _print_paths(rows: Sequence[Row], null: bool) -> None:
    """Paths as the system has them, for other programs; what is gone is left out."""
    end = b"\0" if null else b"\n"
    sys.stdout.flush()
    out = getattr(sys.stdout, "buffer", None)
    for row in rows:
        if not os.path.lexists(row.path):
            continue
        if out is None:  # a stream of text in place of stdout
            print(readable(row.path), end=end.decode())
        else:
            out.write(row.path + end)
    if out is not None:
        out.flush()


def _query_page(
    place: pathlib.Path,
    parts: Sequence[Part],
    found: Answer,
    threshold: float | None,
) -> None:
    shown = found.hits[:_PAGE]
    cards = [_card(hit, str(number)) for number, hit in enumerate(shown, 1)]
    sections = [Section(cards)] if cards else []
    if found.best is not None:
        sections = [Section([_card(found.best, "")], "The nearest one")]
    heading = [
        Words(part.label, "minus" if part.weight < 0 else "plus" if at else "plain")
        for at, part in enumerate(parts)
    ]
    least = f" with probability {threshold:g} or more" if threshold else ""
    count = f"{len(cards):,} of {found.searched:,} photos"
    photo_gallery.write(
        place,
        heading,
        sections,
        facts=[f"{count}, that match{least}" if least else count] if cards else [],
        empty="" if cards else f"None of {found.searched:,} photos matches{least}.",
    )


def _card(hit: Hit, badge: str) -> Card:
    notes = [f"cosine {hit.cosine:.3f}"]
    if hit.probability is not None:
        notes.insert(0, f"match {_percent(hit.probability)}")
    return Card(hit.row, notes, badge, hit.probability)


def _percent(share: float) -> str:
    """A probability in percent, which is 0 or 100 of none."""
    if share < 0.01:
        return "< 1 %"
    return "> 99 %" if share > 0.99 else f"{share:.0%}".replace("%", " %")


def duplicates(db: pathlib.Path, values: Any) -> int:
    """Prints the groups of copies; the exit status."""
    perceptual_hash.check_near(values.near)
    place = photo_gallery.check(values.html) if values.html else None
    console = Console(stderr=True, highlight=False, markup=False)
    with Activity(console) as activity:
        with Photos(db) as table:
            unhashed = next(table.rows(f"{same_photos.UNHASHED} LIMIT 1"), None)
        if unhashed is not None:
            with Photos(db, write=True) as table:
                with activity.doing("reading photos for the first time") as task:
                    same_photos.hash_missing(table, task)
        with Photos(db) as table:
            with activity.doing("comparing photos") as task:
                found, changed = same_photos.copies(table, values.near, task)
            whole, _ = table.counts()
    more = sum(len(group.rows) - 1 for group in found)
    size = sum(row.size for group in found for row in group.rows[1:])
    groups = "1 group" if len(found) == 1 else f"{len(found):,} groups"
    count = (
        f"{groups} of copies among {whole:,} photos: {more:,} more than one of each "
        f"({size / 1e6:,.1f} MB)"
    )
    if changed:
        print(
            f"{changed:,} of them left out, gone or changed since they were indexed: "
            "index them again",
            file=sys.stderr,
        )
    if values.paths or values.null:
        _print_paths([row for group in found for row in group.rows[1:]], values.null)
    else:
        for group in found:
            for row, bits in zip(group.rows, group.bits, strict=True):
                same = row is group.rows[0]
                print(
                    f"{_size(row):<22}  {_alike(bits, same):<14}  {readable(row.path)}"
                )
            print()
        print(count)
    if place is not None:
        sections, shown = [], 0
        for group in found:
            if shown >= _PAGE:
                break
            shown += len(group.rows)
            cards = [
                Card(row, (_size(row), _alike(bits, row is group.rows[0])))
                for row, bits in zip(group.rows, group.bits, strict=True)
            ]
            sections.append(Section(cards, f"{len(cards)} copies"))
        facts = [count]
        if len(sections) < len(found):
            facts.append(f"the first {len(sections):,} groups")
        empty = "" if found else "No two photos are copies of each other."
        heading = [Words("Copies")]
        photo_gallery.write(place, heading, sections, facts=facts, empty=empty)
        print(f"written to {place}", file=sys.stderr)
    return 0


def _size(row: Row) -> str:
    """500 x 400, 160 kB"""
    return f"{row.width} x {row.height}, {-(-row.size // 1000):,} kB"


def _alike(bits: int | None, first: bool) -> str:
    if first:
        return "the largest"
    return "the same bytes" if bits is None else f"{bits} bits differ"


def forget(db: pathlib.Path, names: Sequence[str]) -> int:
    """Takes folders and their photos out of the index; the exit status."""
    if not names:
        raise UserError("no folder given: forget FOLDER [FOLDER ...]")
    with Photos(db):  # which makes no new one
        pass
    with Photos(db, write=True) as table:
        folders = {name: os.fsencode(paths.local(name, "photos")) for name in names}
        known = table.folders()
        for name, folder in folders.items():
            if folder not in known:
                listing = ", ".join(map(readable, known)) or "none"
                raise UserError(f"{name} is no folder of {db}; its folders: {listing}")
        for folder in folders.values():
            count = table.forget(folder)
            print(f"{readable(folder)}: {count:,} files taken out of the index")
        whole, _ = table.counts()
    print(f"{db}: {whole:,} photos")
    return 0


def status(db: pathlib.Path) -> int:
    """Prints what an index has, and every broken file; the exit status."""
    with Photos(db) as table:
        about, (whole, broken) = table.about(), table.counts()
        model = about["model"]
        step = f", step {model['step']}" if model["step"] else ""
        print(f"{db}: {whole:,} photos, {broken:,} broken files")
        print(f"model: {about['place']}{step}; {about['width']} numbers per photo")
        for folder, exclude in table.folders().items():
            left_out = f" (without {exclude})" if exclude else ""
            print(f"folder: {readable(folder)}{left_out}")
        for row in table.rows("WHERE slot IS NULL ORDER BY path"):
            print(f"broken: {readable(row.path)}: {row.reason}")
    return 0
