"""Search your own photos by words, by images, and for copies.

python -m clipjax.search index PHOTOS --model runs/x
python -m clipjax.search query "a dog on grass" + beach - people --html found.html
python -m clipjax.search duplicates
"""

from __future__ import annotations

import sqlite3

from clipjax import commandline, cores, help_pages, paths, registry
from clipjax.types import UserError

DB = "photos.clipjax"
HELP = """\
usage: python -m clipjax.search index PHOTOS [PHOTOS ...] --model MODEL [options]
       python -m clipjax.search query WORDS [+ WORDS] [- WORDS] [options]
       python -m clipjax.search duplicates [options]
       python -m clipjax.search forget FOLDER [FOLDER ...]
       python -m clipjax.search status

  --db {db}  the index: this file, and one beside it with the vectors

index: reads what is new, changed, moved or deleted in folders of photos; without
PHOTOS, in those that it was given before.
  --model MODEL        a run, or a released model: a folder, a file or hf-hub:ORG/NAME;
                       an index has one, which later calls need not name
  --reread             read all photos: also finds those that changed and have the same
                       size and time as before
  --exclude NAME,...   folders to leave out, by name or by path in PHOTOS: Trash,*.tmp
  --batch_size 64      photos encoded at once on each device
  --threads {threads}          how many read and decode
  --checkpoint best    which checkpoint; a step's number, latest, or best (default)
  --noema              the plain weights even if the run has a moving average
  --preprocess NAME    how a released model prepares images if its files do not say so

query: words or names of image files. + and - add and take away, as words of their own
or between spaces; 0.5*beach weights. All other words are one text.
  --top 24             how many photos, at most
  --threshold P        only photos that match with at least this probability, 0 to 1: by
                       the cut-off of evals=match; the status is 1 if nothing matches
  --prior 0.5          how often photos match, for the probability
  --match DIR          the evaluation that has the cut-off, of a released model
  --model MODEL        the index's model, if it lies elsewhere now

duplicates: groups of photos with the same bytes, or that look the same.
  --near {near}             by how many of 64 bits perceptual hashes may differ

forget: takes folders that were indexed, and their photos, out of the index.

query and duplicates:
  --html FILE          also a page with the photos, in one file
  --paths              only the paths, a line each; of duplicates all but the best ones
  -0                   only the paths, ended by NUL: for xargs -0
"""
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
SWITCHES = ("paths", "null", "ema", "noema", "reread", "noreread")


def main(argv: list[str]) -> int:
    from clipjax.data.images import perceptual_hash

    threads = cores.usable()
    if "--help" in argv or "-h" in argv:
        text = HELP.format(db=DB, threads=threads, near=perceptual_hash.NEAR)
        print(help_pages.help_text(argv, text))
        return 0
    words, rest = commandline.split_words(
        [{"-0": "--null"}.get(item, item) for item in argv], SWITCHES
    )
    action, words = (words[0], words[1:]) if words else ("", [])
    known: dict[str, dict[str, str | bool | int]] = {
        "index": {
            "model": "",
            "workdir": "",
            "exclude": "",
            "reread": False,
            "batch_size": 64,
            "threads": threads,
            "checkpoint": "best",
            "ema": True,
            "preprocess": "",
        },
        "query": {
            "model": "",
            "workdir": "",
            "top": 24,
            "threshold": "",
            "prior": "0.5",
            "match": "",
            "html": "",
            "paths": False,
            "null": False,
        },
        "duplicates": {
            "near": perceptual_hash.NEAR,
            "html": "",
            "paths": False,
            "null": False,
        },
        "forget": {},
        "status": {},
    }
    if action not in known:
        given = f"{action!r} is no action" if action else "no action given"
        raise UserError(
            f"{given}.{registry.suggest(action, known)} Use {', '.join(known)}; "
            "python -m clipjax.search --help explains them"
        )
    values = commandline.parse(rest, None, db=DB, **known[action])
    if words and action not in ("index", "query", "forget"):
        raise UserError(f"{words[0]!r}: {action} takes no words, only flags")

    from clipjax.search_index import photo_actions

    db = paths.local(values.db, "the index")
    try:
        if action == "index":
            return photo_actions.index(db, words, values)
        if action == "query":
            return photo_actions.query(db, words, values)
        if action == "duplicates":
            return photo_actions.duplicates(db, values)
        if action == "forget":
            return photo_actions.forget(db, words)
        return photo_actions.status(db)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "") in _DAMAGED:
            raise UserError(
                f"{db} is damaged ({error}): restore it with the file of vectors "
                "beside it, or delete both and index the photos again"
            ) from error
        raise UserError(f"{db} cannot be used: {error}") from error


if __name__ == "__main__":
    commandline.run(main)
