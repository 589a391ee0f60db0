"""Draw what a model looks at: maps over images for texts, and the words it goes by.

    python -m clipjax.maps --model runs/x --images photos/ --texts "a dog|a red car" \\
        --out maps/

Beside each image's captions stands a wrong one, whose map shows what the model looks
at whatever the text says.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

from clipjax import commandline, data_flags, help_pages, option_checks, paths, registry
from clipjax.types import UserError

WRONG = "a photo of a spaceship"
HELP = """\
usage: python -m clipjax.maps --model MODEL --images PLACE --texts TEXTS --out DIR
       python -m clipjax.maps --model MODEL --data=NAME --data.KEY=VALUE --out DIR

  --model MODEL        a run, or a released model: a folder, a file or hf-hub:ORG/NAME
  --workdir DIR        the same
  --images PLACE       an image, or a folder of images at any depth
  --texts TEXTS        "a dog|a red car": one or more; or a file with one per line
  --data=NAME          in place of --images and --texts: a source, whose images have
                       captions; by default the run's evaluation data: {sources}
  --data.KEY=VALUE     an option of that source; --data.split=NAME
  --wrong TEXT         the wrong caption, "" for none; by default "{wrong}",
                       with --data the caption of another example
  --method NAME        several with commas, or all; by default the best the model has:
                       chefer, grad_eclip, maskclip and attention (per head) of
                       transformers, grad_cam of convolutional towers
  --out DIR            where the sheets go, a PNG per image, and maps.jsonl, a line per
                       sheet with all numbers
  --count 20           the most images; 0 for all
  --size 256           pixels of each map's side
  --checkpoint best    which checkpoint; a step's number, latest, or best (default)
  --noema              the plain weights even if the run has a moving average
  --preprocess NAME    how a released model prepares images if its files do not say so:
                       clip, squash or openai
"""


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        sources = ", ".join(registry.names("data"))
        text = HELP.format(sources=sources, wrong=WRONG)
        print(help_pages.help_text(argv, text))
        return 0
    data, rest = data_flags.read(argv[1:])
    values = commandline.parse(
        [argv[0], *rest],
        None,
        data="",
        model="",
        workdir="",
        images="",
        texts="",
        wrong="",
        method="",
        out="",
        count=20,
        size=256,
        checkpoint="best",
        ema=True,
        preprocess="",
    )
    model = commandline.model_flag(values.model, values.workdir)
    if not values.out:
        raise UserError("no --out given: the folder to write to")
    if values.images and data:
        raise UserError("--images and --data both say what to draw: give one")
    if bool(values.images) != bool(values.texts):
        given, lacks = ("images", "texts") if values.images else ("texts", "images")
        raise UserError(f"--{given} needs --{lacks}")
    if values.count < 0:
        raise UserError(f"--count={values.count}: use 1 or more, or 0 for all")
    if not 32 <= values.size <= 2048:
        raise UserError(f"--size={values.size}: use 32 to 2048 pixels")
    files = _files(values.images) if values.images else []
    texts = _texts(values.texts) if values.texts else []

    from clipjax import embedding_job, library
    from clipjax.engine import host
    from clipjax.saliency import explanation, sheets

    host.fast_cpu_flags()
    clip = library.load(
        model,
        checkpoint=values.checkpoint,
        ema=values.ema,
        preprocess=values.preprocess,
        batch_size=8,
    )
    methods = _methods(values.method, explanation.methods(clip))
    count = values.count or 10**12
    if files:
        wrong = values.wrong if values["wrong"].present else WRONG
        asked = sheets.of_files(files[:count], texts, wrong)
    else:
        _, source = embedding_job.source_of(
            model, clip.config, data, ", or --images=PLACE --texts=TEXTS"
        )
        if not source.max_captions:
            raise UserError("the source has no captions: give --images and --texts")
        asked = sheets.of_source(source, count, values.wrong)
    out = paths.local(values.out, "maps")
    made = broken = 0
    for one in sheets.make(clip, asked, methods, out, values.size):
        if one.found is None:
            broken += 1
            print(f"left out {one.key}: {one.error}")
            continue
        made += 1
        said = zip(one.found.similarity[0], one.found.texts, strict=True)
        print(
            f"{out / one.file}: "
            + ", ".join(f"{cosine:.3f} {text!r}" for cosine, text in said),
            flush=True,
        )
    rest = f", {len(files) - count:,} images beyond --count" * (len(files) > count)
    print(f"{made:,} sheets in {out}, {broken:,} images left out{rest}")
    if not made:
        raise UserError("no image could be used")
    return 0


def _files(place: str) -> list[str]:
    """The images that --images names."""
    from clipjax.data.images import image_files

    path = paths.local(place, "images")
    if path.is_file():
        return [str(path)]
    if not path.is_dir():
        raise UserError(f"--images={place}: there is no such file or folder")
    others: image_files.Suffixes = collections.Counter()
    found = image_files.find(path, others)
    if not found:
        raise UserError(
            f"--images={place}: the folder has no images, and {others.total()} other "
            "files"
        )
    return found


def _texts(given: str) -> list[str]:
    """The texts that --texts names: a file's lines, or what stands between |."""
    try:
        path = paths.expand(given)
        file = path if path.is_file() else None
    except (OSError, UserError):  # it cannot be a file's name: too long, an address
        file = None
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"--texts={given}: the file is not UTF-8") from error
        found = [line.strip() for line in lines]
    else:
        found = [text.strip() for text in given.split("|")]
    found = [text for text in found if text]
    if not found:
        raise UserError(f"--texts={given}: there is no text in it")
    return found


def _methods(given: str, known: Sequence[str]) -> list[str]:
    if not given:
        return [known[0]]
    if given == "all":
        return list(known)
    names = [name.strip() for name in given.split(",")]
    for name in names:
        option_checks.one_of("--method", name, (*known, "all"))
    return names


if __name__ == "__main__":
    commandline.run(main)
