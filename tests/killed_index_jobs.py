"""Kills index jobs at every file operation and statement, as a process of its own.

usage: python tests/killed_index_jobs.py FOLDER DB FIRST STEP

Child number k = FIRST, FIRST + STEP, ... is a job on a copy of the index DB that is
killed before its k-th operation, or in the middle of it if it writes vectors. Prints a
line of JSON per child that was killed: what was in the index then, and after the next
job. Ends with the first child that ends by itself.
"""

import json
import os
import pathlib
import shutil
import signal
import sys

import numpy as np

from clipjax.data.images import preprocess
from clipjax.engine.activity import Task
from clipjax.image_batches import Note
from clipjax.preempt import StopRequest
from clipjax.search_index import index_job, vector_file
from clipjax.search_index.photo_table import Photos
from clipjax.types import BadExample

WIDTH = 12


class PixelEncoder:
    """In place of a model: a photo's vector is its middle at 2 x 2 pixels."""

    def image_stream(self, variables, source, *, progress, wait):
        small = preprocess.clip(2)
        for start in range(0, len(source), 2):
            rows, notes = [], []
            for place in range(start, min(start + 2, len(source))):
                try:
                    rows.append(small(source[place].image).ravel() + 1.0)
                    notes.append(Note(place, None, None))
                except BadExample as error:
                    rows.append(np.zeros(WIDTH))
                    notes.append(Note(place, "", error.reason))
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            yield (rows / np.maximum(norms, 1e-9)).astype(np.float32), notes


def job(folder, db, watch=lambda table: None, reread=False):
    """Brings an index up to date; what it has done."""
    with Photos(db, write=True) as table:
        watch(table)
        if table.new:
            table.begin({"model": {}, "width": WIDTH})
        beside = vector_file.beside(db)
        with vector_file.Vectors(beside, WIDTH, write=True) as vectors:
            made = index_job.Job(table, vectors, StopRequest())
            rows = made.look({os.fsencode(folder): ""}, Task("look"), reread=reread)
            made.encode(rows, PixelEncoder(), {}, Task("encode"))
    return made.done


def content(db):
    """Every photo of an index: name -> its vector's first numbers, or its reason."""
    found = {}
    if not db.exists() or not db.stat().st_size:
        return found
    with Photos(db) as table:
        beside = vector_file.beside(db)
        with vector_file.Vectors(beside, WIDTH, write=True) as vectors:
            assert len(vectors) >= table.end(), "a row points to no vector"
            for row in table.rows():
                vector = None if row.slot is None else vectors.read(row.slot)
                name = os.path.basename(row.name)
                found[name] = row.reason or np.round(vector, 4).tolist()
    return found


def copy(db, place):
    for path in (db, vector_file.beside(db)):
        if path.exists():
            shutil.copy(path, place.with_name(path.name.replace(db.name, place.name)))


def killed(folder, db, at):
    """A job in this process, which it kills at its operation number `at`."""
    index_job.COMMIT_AFTER = 0.0
    left = at

    def count(*_):
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(name):
        original = getattr(os, name)

        def call(descriptor, *args):
            if name == "pwrite" and left == 0:
                original(descriptor, args[0][: len(args[0]) // 2], args[1])
            count()
            return original(descriptor, *args)

        setattr(os, name, call)

    for name in ("pwrite", "fsync", "ftruncate"):
        counted(name)
    job(folder, db, lambda table: table._sql.set_trace_callback(count))


def main():
    folder, db = (pathlib.Path(word) for word in sys.argv[1:3])
    first, step = (int(word) for word in sys.argv[3:])
    at = first
    while True:
        here = db.with_name(f"killed-{at}")
        copy(db, here)
        child = os.fork()
        if not child:
            killed(folder, here, at)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        then = content(here)
        done = job(folder, here)
        line = {"at": at, "then": then, "encoded": done.encoded, "end": content(here)}
        print(json.dumps(line), flush=True)
        at += step
    assert os.WEXITSTATUS(status) == 0, status


if __name__ == "__main__":
    main()
