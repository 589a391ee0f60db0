"""Compares a training step's speed with open_clip's and with the machine's limit.

    python benchmarks/train_step.py                    # ViT-B/16, batch 8, CPU
    python benchmarks/train_step.py --case tiny
    python benchmarks/train_step.py --precision bfloat16 --batch 512 --length 77  # GPU

A step is forward, CLIP's loss, backward and AdamW, on random images and full-length
texts that are already on the device. Each contender runs in a separate process, and
rounds are interleaved, so that a slow moment affects all. The table has medians over
the rounds. open_clip runs with its defaults, eagerly (--compile for torch.compile), if
torch and open_clip are installed. The limit is the rate of a large matrix product in
our step's process and precision, measured in the same rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import statistics
import subprocess
import sys
import time


@dataclasses.dataclass(frozen=True)
class Case:
    """Towers are (width, depth, heads); sizes are in pixels and tokens."""

    image_size: int
    patch: int
    image: tuple[int, int, int]
    length: int
    text: tuple[int, int, int]
    embed_dim: int
    batch: int
    vocab_size: int = 49_408

    def flops(self, length: int) -> float:
        """FLOPs per pair and training step: three times the forward pass's products."""

        def tower(tokens, width, depth):
            return depth * (24 * tokens * width**2 + 4 * tokens**2 * width)

        patches = (self.image_size // self.patch) ** 2
        embedding = 2 * patches * 3 * self.patch**2 * self.image[0]
        image = tower(patches + 1, *self.image[:2]) + embedding
        return 3.0 * (image + tower(length, *self.text[:2]))


CASES = {
    "vit_b16": Case(224, 16, (768, 12, 12), 77, (512, 12, 8), 512, 8),
    "tiny": Case(64, 8, (192, 6, 3), 32, (128, 4, 4), 128, 128),
}


def clipjax_contender(args: argparse.Namespace, case: Case):
    """Returns functions that run one step, and one product; each waits for its end."""
    from clipjax.engine import host

    if args.host_settings:
        host.fast_cpu_flags()
        host.keep_memory()
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from clipjax.engine import state as states
    from clipjax.engine.step import make_train_step
    from clipjax.optim.factory import Optim
    from clipjax.registry import load
    from clipjax.types import LossSpec

    def sizes(tower):
        return dict(zip(("width", "depth", "heads"), tower, strict=True))

    image = load("image", "vit")(
        case.image_size,
        variant=f"B/{case.patch}",
        remat=args.remat,
        **sizes(case.image),
    )
    text = load("text", "transformer")(
        case.vocab_size, case.length, remat=args.remat, **sizes(case.text)
    )
    model = load("model", "two_tower")(
        image, text, embed_dim=case.embed_dim, precision=args.precision
    )
    spec = LossSpec(args.batch, args.batch, case.embed_dim, args.batch, 1, 1)
    loss = load("loss", "clip")(spec)
    optim = Optim(optax.adamw(1e-3, weight_decay=0.1), lambda step: jnp.float32(1e-3))
    step = make_train_step(model, loss, optim, ema=0.0, max_logit_scale=100.0)
    state = jax.jit(lambda: states.create(model, loss, optim.tx, False, 0))()
    draw = np.random.default_rng(0)
    pixels = (args.batch, case.image_size, case.image_size, 3)
    text = (args.batch, args.length)
    batch = jax.device_put(
        {
            "image": draw.integers(0, 256, pixels, np.uint8),
            "text": draw.integers(0, case.vocab_size, text, np.int32),
            "text_mask": np.ones(text, bool),
        }
    )
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    device = jax.devices()[0]
    print(
        f"clipjax: jax {jax.__version__} on {device.device_kind}, compiled in "
        f"{seconds:.1f} s, {memory.temp_size_in_bytes / 1e9:.2f} GB of temporaries",
        file=sys.stderr,
    )

    def one_step():
        nonlocal state
        state, metrics = compiled(state, batch)
        metrics["loss"].block_until_ready()

    side = 2048 if device.platform == "cpu" else 8192
    square = jnp.ones((side, side), args.precision)
    product = jax.jit(jnp.matmul)

    def one_product():
        product(square, square).block_until_ready()
        return 2 * side**3

    return one_step, one_product


def open_clip_contender(args: argparse.Namespace, case: Case):
    """Returns a function that runs one step and waits for its end."""
    import torch

    # A CUDA build of torchvision beside a CPU build of torch lacks the operators that
    # its import describes; open_clip needs none of them.
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)
    import open_clip
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    device = "cuda" if torch.cuda.is_available() else "cpu"
    width, depth, heads = case.image
    vision = CLIPVisionCfg(
        layers=depth,
        width=width,
        head_width=width // heads,
        patch_size=case.patch,
        image_size=case.image_size,
    )
    width, depth, heads = case.text
    words = CLIPTextCfg(
        context_length=args.length,
        vocab_size=case.vocab_size,
        width=width,
        layers=depth,
        heads=heads,
    )
    model = CLIP(case.embed_dim, vision, words).to(device).train()
    model.set_grad_checkpointing(args.remat)
    if args.compile:
        model = torch.compile(model)
    loss, optim = open_clip.ClipLoss(), torch.optim.AdamW(model.parameters(), lr=1e-3)
    size = (args.batch, 3, case.image_size, case.image_size)
    image = torch.randn(size, device=device)
    text = torch.randint(case.vocab_size, (args.batch, args.length), device=device)
    half = args.precision == "bfloat16"

    def one_step():
        optim.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            value = loss(*model(image, text))
        value.backward()
        optim.step()
        value.item()

    print(
        f"open_clip: {open_clip.__version__}, torch {torch.__version__} on {device}, "
        f"{torch.get_num_threads()} threads",
        file=sys.stderr,
    )
    return one_step


def seconds_per_call(function, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - start) / count


def serve(args: argparse.Namespace) -> None:
    """The contender's process: answers each line of stdin by seconds per step."""
    case = CASES[args.case]
    product = None
    if args.contender == "clipjax":
        step, product = clipjax_contender(args, case)
        seconds_per_call(product, 2)
    else:
        step = open_clip_contender(args, case)
    seconds_per_call(step, 2)
    print("ready", flush=True)
    for _ in sys.stdin:
        answer = {"step": seconds_per_call(step, args.steps)}
        if product:
            answer["flops"] = product() / seconds_per_call(product, 3)
        print(json.dumps(answer), flush=True)


class Contender:
    """A process that times itself on request."""

    def __init__(self, name: str):
        self.name = name
        self.answers = []
        self.process = subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--contender", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.read()

    def read(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended; its message is above")
        return line

    def turn(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.answers.append(json.loads(self.read()))

    def median(self, key: str) -> float:
        return statistics.median(answer[key] for answer in self.answers)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(args: argparse.Namespace) -> None:
    names = ["clipjax"]
    if args.open_clip and importlib.util.find_spec("open_clip"):
        names.append("open_clip")
    contenders = [Contender(name) for name in names]
    for _ in range(args.rounds):
        for contender in contenders:
            contender.turn()
    for contender in contenders:
        contender.close()
    ours = contenders[0]
    case = CASES[args.case]
    print(
        f"{args.case}, batch {args.batch}, {args.length} tokens, {args.precision}, "
        f"{args.rounds} rounds of {args.steps} steps"
    )
    for contender in contenders:
        rate = args.batch / contender.median("step")
        print(f"{contender.name:10} {rate:10.2f} pairs/s")
    limit = ours.median("flops")
    shares = (
        case.flops(args.length) * args.batch / answer["step"] / answer["flops"]
        for answer in ours.answers
    )
    print(
        f"share of the matrix product's rate ({limit / 1e12:.2f} TFLOP/s): "
        f"{statistics.median(shares):.1%}"
    )
    for other in contenders[1:]:
        pairs = zip(other.answers, ours.answers, strict=True)
        ratio = statistics.median(theirs["step"] / own["step"] for theirs, own in pairs)
        print(f"clipjax / {other.name}: {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--case", choices=CASES, default="vit_b16")
    parser.add_argument("--batch", type=int, help="pairs per step")
    parser.add_argument("--length", type=int, help="tokens per text")
    precisions = ("float32", "bfloat16")
    parser.add_argument("--precision", choices=precisions, default="float32")
    parser.add_argument("--remat", action=flag, default=False)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="steps per turn")
    parser.add_argument("--host_settings", action=flag, default=True)
    parser.add_argument("--open_clip", action=flag, default=True)
    parser.add_argument("--compile", action=flag, default=False)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    case = CASES[args.case]
    args.batch = args.batch or case.batch
    args.length = min(args.length or case.length, case.length)
    serve(args) if args.contender else compare(args)


if __name__ == "__main__":
    main()
