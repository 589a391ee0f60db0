"""Write the embeddings of a data set's images and captions, or of a file of texts.

    python -m clipjax.embed --model runs/x --data=webdataset --data.path=SHARDS \\
        --out emb

Parts that are in the folder are kept, so that the same command goes on after an end of
any kind, and several machines can share the work.
"""

from __future__ import annotations

import re

from rich.console import Console

from clipjax import commandline, cores, data_flags, help_pages, paths, registry
from clipjax.types import UserError

HELP = """\
usage: python -m clipjax.embed --model MODEL --data=NAME --data.KEY=VALUE --out DIR
       python -m clipjax.embed --model MODEL --texts FILE --out DIR [options]

  --model MODEL        a run, or a released model: a folder, a file or hf-hub:ORG/NAME
  --workdir DIR        the same
  --data=NAME          a source, by default the run's evaluation data: {sources}
  --data.KEY=VALUE     an option of that source; --data.split=NAME
  --texts FILE         in place of --data: one text per line, in UTF-8
  --out DIR            the folder, which clipjax.read_embeddings and
                       python -m clipjax.evaluate --embeddings read
  --part 1/1           with i/n this job makes every n-th part, from the i-th on: n
                       jobs, on any machines that share the folder, make all
  --outputs embed      or embed,features: also what the towers give before projection
  --dtype float32      or float16, half the size
  --part_size 8192     examples per part; a killed job loses one, and one that it was
                       writing
  --batch_size 64      images or texts encoded at once on each device
  --threads {threads}          how many read and decode
  --checkpoint best    which checkpoint; a step's number, latest, or best (default)
  --noema              the plain weights even if the run has a moving average
  --preprocess NAME    how a released model prepares images if its files do not say so:
                       clip, squash or openai

Starting the same command again makes the parts that are missing.
"""


def main(argv: list[str]) -> int:
    threads = cores.usable()
    if "--help" in argv or "-h" in argv:
        sources = ", ".join(registry.names("data"))
        print(help_pages.help_text(argv, HELP.format(sources=sources, threads=threads)))
        return 0
    from clipjax.engine import host

    host.fast_cpu_flags()
    host.keep_memory()
    data, rest = data_flags.read(argv[1:])
    values = commandline.parse(
        [argv[0], *rest],
        None,
        data="",
        model="",
        workdir="",
        texts="",
        out="",
        part="1/1",
        outputs="embed",
        dtype="float32",
        part_size=8192,
        batch_size=64,
        threads=threads,
        checkpoint="best",
        ema=True,
        preprocess="",
    )
    model = commandline.model_flag(values.model, values.workdir)
    if not values.out:
        raise UserError("no --out given: the folder to write to")
    if values.threads < 1:
        raise UserError(f"--threads={values.threads}: use 1 or more")

    from clipjax import embedding_job

    request = embedding_job.Request(
        model=model,
        out=paths.local(values.out, "embeddings"),
        data=data,
        texts=values.texts,
        share=_share(values.part),
        outputs=tuple(values.outputs.split(",")),
        dtype=values.dtype,
        part_size=values.part_size,
        batch_size=values.batch_size,
        threads=values.threads,
        checkpoint=values.checkpoint,
        ema=values.ema,
        preprocess=values.preprocess,
    )
    done = embedding_job.embed(request, Console(highlight=False, markup=False))
    return 128 + done.stopped_by if done.stopped_by else 0


def _share(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match:
        raise UserError(f"--part={text}: use 1/n to n/n, such as 2/4")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    commandline.run(main)
