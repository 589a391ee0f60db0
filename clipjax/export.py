"""Export a model as a folder that transformers or open_clip loads.

python -m clipjax.export --model runs/x --format hf --out exported
"""

from __future__ import annotations

import pathlib

from rich.console import Console

from clipjax import commandline, help_pages, paths
from clipjax.types import UserError

HELP = """\
usage: python -m clipjax.export --model MODEL --format hf|open_clip --out FOLDER
                                [--checkpoint best|latest|STEP] [--noema]
                                [--dtype float32|float16|bfloat16]
                                [--preprocess NAME]

  --model MODEL        a run, as given to clipjax.train, or a released model
  --workdir DIR        the same
  --format hf          Hugging Face's CLIPModel or SiglipModel, whichever fits the
                       towers, with tokenizer and image processor
  --format open_clip   for open_clip.create_model("local-dir:FOLDER")
  --out FOLDER         the folder to create; it must not exist
  --checkpoint best    which checkpoint; a step's number, latest, or best (default)
  --noema              the plain weights even if the run has a moving average
  --dtype float32      the dtype of the weights in the file
  --preprocess NAME    how a released model prepares images if its files do not say so:
                       clip, squash or openai
"""


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(help_pages.help_text(argv, HELP))
        return 0
    values = commandline.parse(
        argv,
        None,
        model="",
        workdir="",
        format="",
        out="",
        checkpoint="best",
        ema=True,
        dtype="float32",
        preprocess="",
    )
    model = commandline.model_flag(values.model, values.workdir)
    for flag, what in (
        ("format", "hf or open_clip"),
        ("out", "the folder to create"),
    ):
        if not values[flag].value:
            raise UserError(f"no --{flag} given: {what}")
    out = paths.local(values.out, "an export")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for note in export(
        model,
        out,
        values.format,
        values.checkpoint,
        values.ema,
        values.dtype,
        values.preprocess,
    ):
        console.print(note)
    console.print(f"written to {out}")
    return 0


def export(
    model: str,
    out: pathlib.Path,
    target: str,
    checkpoint: str,
    ema: bool,
    dtype: str,
    preprocess: str = "",
) -> list[str]:
    """Writes a run's or a released model as a folder; see `write_model.write`.

    Returns what differs from the run's own settings, for the user.

    Raises UserError for a model that cannot be exported.
    """
    from clipjax import library
    from clipjax.weights import write_model

    loaded = library.read(model, checkpoint, ema, preprocess=preprocess)
    if loaded.tokenizer is None:
        raise UserError(f"{model} is a classifier: only two-tower models are exported")
    return write_model.write(
        out,
        target,
        loaded.config,
        loaded.model,
        loaded.variables,
        loaded.tokenizer,
        dtype,
    )


if __name__ == "__main__":
    commandline.run(main)
