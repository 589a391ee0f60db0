"""Encodes a whole source, or a file of texts, into parts on disk.

A part is a fixed range of examples, is encoded alone, and is written by a thread while
the next one is encoded. So neither a killed job nor the number of jobs changes a byte.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from rich.console import Console

from clipjax import (
    atomic_files,
    config,
    data_flags,
    library,
    option_checks,
    paths,
)
from clipjax.data_wait import DataWait
from clipjax.embeddings import header as headers
from clipjax.embeddings import parts
from clipjax.embeddings.header import Header
from clipjax.embeddings.stored import broken_rows, read_table
from clipjax.embeddings.text_file import TextFile
from clipjax.engine import assemble, datasets
from clipjax.engine.activity import Activity, Task
from clipjax.engine.compilation import enable_cache
from clipjax.engine.embedded import Embedded
from clipjax.engine.part_encoding import Part, PartEncoder
from clipjax.preempt import StopRequest
from clipjax.types import Config, Source, UserError
from clipjax.weights import read_model


@dataclasses.dataclass(frozen=True)
class Request:
    """What to embed, with what and how; see `embed_data`."""

    model: str
    out: pathlib.Path
    data: data_flags.DataFlags = data_flags.NONE
    texts: str = ""
    share: tuple[int, int] = (1, 1)
    outputs: tuple[str, ...] = ("embed",)
    dtype: str = "float32"
    part_size: int = 8192
    batch_size: int = 64
    threads: int = 0
    checkpoint: str = "best"
    ema: bool = True
    preprocess: str = ""

    def __post_init__(self) -> None:
        for output in self.outputs:
            option_checks.one_of("--outputs", output, headers.OUTPUTS)
        if "embed" not in self.outputs or len({*self.outputs}) != len(self.outputs):
            raise UserError(
                f"--outputs={','.join(self.outputs)}: use embed, or embed,features"
            )
        option_checks.one_of("--dtype", self.dtype, headers.DTYPES)
        for name in ("part_size", "batch_size"):
            option_checks.at_least_one(f"--{name}", getattr(self, name))
        if not 1 <= self.share[0] <= self.share[1]:
            raise UserError(
                f"--part={self.share[0]}/{self.share[1]}: use 1/n to n/n, such as 2/4"
            )
        if self.texts and self.data:
            raise UserError("--texts and --data both say what to embed: give one")


def embed_data(
    model: str | os.PathLike,
    out: str | os.PathLike,
    *,
    data: str = "",
    data_options: Mapping[str, Any] | None = None,
    split: str = "",
    texts: str | os.PathLike = "",
    part: tuple[int, int] = (1, 1),
    outputs: Sequence[str] = ("embed",),
    dtype: str = "float32",
    part_size: int = 8192,
    batch_size: int = 64,
    threads: int = 0,
    checkpoint: str | int = "best",
    ema: bool = True,
    preprocess: str = "",
    console: Console | None = None,
) -> Embedded:
    """Writes the embeddings of a source's images and captions, or of a file's lines.

    Parts that are in `out` are kept, so that the same call goes on after an end of any
    kind. SIGINT and SIGTERM end it between two batches.

    Args:
      model: as `clipjax.load` takes it.
      out: the folder, to read by `clipjax.read_embeddings`.
      data: a source, "webdataset"; the run's evaluation data if empty.
      data_options: options of that source, {"path": "shards"}.
      split: of that source; "val" if it is named here, else the run's.
      texts: a file with one text per line, in place of data.
      part: (i, n): this call makes every n-th part, from the i-th on, and n calls or
        machines make all.
      outputs: ("embed",), or ("embed", "features") to keep the towers' features before
        their projection too.
      dtype: the files', "float32" or "float16".
      part_size: examples per part.
      batch_size: images or texts encoded at once on each device.
      threads: how many read and decode; 0: one per CPU.
      checkpoint: a run's: "best" (the latest if none is best), "latest" or a step.
      ema: whether to take a run's moving average of the parameters, if it has one.
      preprocess: a released model's, as `clipjax.load` takes it.
      console: where it says what it does; nowhere if None.

    Raises:
      UserError: if there is no such model or source, a source is empty, or `out` has
        embeddings of another model, other data or another form.

    >>> done = clipjax.embed_data("runs/quickstart", "embedded", batch_size=4,
    ...     data="scenes", data_options={"eval_size": 4, "resolution": 16})
    >>> done.parts, done.broken
    ((1, 1), [])
    """
    request = Request(
        model=os.fspath(model),
        out=paths.local(os.fspath(out), "embeddings"),
        data=data_flags.DataFlags(data, data_options or {}, split),
        texts=os.fspath(texts),
        share=part,
        outputs=tuple(outputs),
        dtype=dtype,
        part_size=part_size,
        batch_size=batch_size,
        threads=threads,
        checkpoint=str(checkpoint),
        ema=ema,
        preprocess=preprocess,
    )
    return embed(request, console or Console(quiet=True))


def embed(request: Request, console: Console) -> Embedded:
    """See `embed_data`."""

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False, markup=False)

    try:
        enable_cache(say)
        with StopRequest() as stop, Activity(console) as activity:
            with activity.doing("reading the model and the data"):
                job = _Job(request, stop)
            with activity.doing("compiling"):
                job.compile()
            with activity.doing("embedding") as task:
                done = job.run(task)
    except OSError as error:
        raise UserError(atomic_files.describe_os_error(error)) from error
    what = "texts" if isinstance(job.given, TextFile) else "images"
    for line in done.lines(what, job.devices):
        say(line)
    return done


class _Stopped(Exception):
    """A signal asks the job to end."""


class _Job:
    """One process's work on a folder; the header is written when it is made."""

    def __init__(self, request: Request, stop: StopRequest):
        self._request, self._stop = request, stop
        atomic_files.check_place(request.out)
        read = library.read(
            request.model,
            request.checkpoint,
            request.ema,
            preprocess=request.preprocess,
        )
        self.given, data = _given(request, read.config)
        encoder, variables, self.devices = library.on_all_devices(
            read, batch_size=request.batch_size, threads=request.threads
        )
        lines = isinstance(self.given, TextFile)
        captions = isinstance(self.given, TextFile) or self.given.max_captions > 0
        if read.tokenizer is None:
            captions = False
            if lines:
                raise UserError(f"--texts: {request.model} is a model without text")
        features = "features" in request.outputs
        for side in ("image",) * (not lines) + ("text",) * captions:
            if features:
                encoder.check_pooled(side)
        self.header = Header(
            model=library.named(request.model, read),
            data=data,
            image_output="" if lines else encoder.image_output,
            examples=len(self.given),
            part_size=request.part_size,
            outputs=request.outputs,
            dtype=request.dtype,
            captions=captions,
        )
        self._encoder = PartEncoder(
            encoder,
            variables,
            request.dtype,
            features,
            captions,
            () if isinstance(self.given, TextFile) else (*self.given.class_names,),
        )
        first, count = request.share
        self._own = range(first - 1, self.header.parts, count)
        request.out.mkdir(parents=True, exist_ok=True)
        headers.write_once(request.out, self.header)
        places = {number: self._place(number) for number in self._own}
        self._missing = [n for n, place in places.items() if not place.is_dir()]

    def compile(self) -> None:
        if self._missing:
            self._encoder.compile(images=not isinstance(self.given, TextFile))

    def _place(self, number: int) -> pathlib.Path:
        return self._request.out / self.header.part_name(number)

    def run(self, task: Task) -> Embedded:
        """Makes the parts of this job that are not there."""
        header, own, missing = self.header, self._own, self._missing
        wait, broken, texts, examples, stopped = DataWait(), [], 0, 0, 0
        total = sum(len(header.rows_of(k)) for k in missing)
        began = time.monotonic()
        with self._writing() as write:
            try:
                for number in missing:

                    def progress(count: int, before: int = examples) -> None:
                        task(before + count, total)
                        if self._stop.signal_number(0):
                            raise _Stopped

                    atomic_files.remove_leftovers(self._place(number))
                    part = self._encode(header.rows_of(number), progress, wait)
                    write(self._place(number), part)
                    broken += broken_rows(part.table)
                    texts += len(part.arrays.get("texts", ()))
                    examples += part.table.num_rows
            except _Stopped:
                stopped = self._stop.signal_number(0)
        seconds = time.monotonic() - began
        for number in {*own} - {*missing}:
            broken += broken_rows(
                read_table(self._place(number), header.rows_of(number))
            )
        there = sum(self._place(number).is_dir() for number in range(header.parts))
        return Embedded(
            self._request.out,
            examples,
            texts,
            len(own) - len(missing),
            (there, header.parts),
            seconds,
            examples / seconds,
            min(1.0, wait.seconds / seconds),
            sorted(broken),
            stopped,
        )

    def _encode(self, rows: range, progress: Any, wait: DataWait) -> Part:
        if isinstance(self.given, TextFile):
            return self._encoder.texts(self.given, rows, progress)
        return self._encoder.images(self.given, rows, progress, wait)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Any]:
        """Yields write(place, part), which returns before the part is on disk; all are
        there after the block.
        """
        last: Future | None = None
        with ThreadPoolExecutor(1) as pool:

            def write(place: pathlib.Path, part: Part) -> None:
                nonlocal last
                if last is not None:
                    last.result()  # raises what went wrong; one part waits at most
                last = pool.submit(parts.write, place, part.arrays, part.table)

            yield write
            if last is not None:
                last.result()


def _given(request: Request, own: Config) -> tuple[Source | TextFile, dict[str, Any]]:
    """The source or texts, and what the header says of them.

    own: the model's config, whose evaluation data are those of a run.
    """
    if request.texts:
        file = TextFile(paths.local(request.texts, "a file of texts"))
        return file, {"texts": str(file.path), "digest": file.digest}
    section, source = source_of(request.model, own, request.data, ", or --texts=FILE")
    return source, datasets.describe_source(section, source)


def source_of(
    model: str, own: Config, data: data_flags.DataFlags, otherwise: str = ""
) -> tuple[Config, Source]:
    """The source that a command line names for a model, and its section.

    own: the model's config, whose evaluation data are those of a run. otherwise: what
    the command takes in place of data, for messages.

    Raises UserError if a released model gets no data, and for missing or empty data.
    """
    if read_model.is_foreign(model):
        own = config.base(None, evals="none")
        if not data.name:
            raise UserError(
                f"{model} is a released model, which has no data of its own: name them "
                f"by --data=imagefolder --data.path=FOLDER{otherwise}"
            )
    section = datasets.resolve(data.put(own)).data.eval
    return section, assemble.source(section, data_flags.FLAG)
