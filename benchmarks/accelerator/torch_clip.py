"""The towers of configs/vit_b16.py as transformers' CLIPModel, trained by PyTorch.

It uses autocast to bfloat16, fused AdamW, scaled_dot_product_attention, and TF32 for
float32 products. Its pixels are normalised beforehand and its gradient is not clipped;
our step does both.
"""

from __future__ import annotations

import time
from typing import Any

from accelerator import timing
from accelerator.child import Absent, Report, message


def measure(report: Report, tiny: bool) -> None:
    """The eager model runs first, because compilation may exceed the part's limit."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise Absent(f"{error.name or error} is not installed") from error
    if not torch.cuda.is_available() and not tiny:
        raise Absent("PyTorch finds no GPU here")
    device = "cuda" if torch.cuda.is_available() and not tiny else "cpu"
    report("versions", f"torch {torch.__version__}, {transformers.__version__}")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    size = 4 if tiny else 256
    sides = {"intermediate_size": 2048, "num_hidden_layers": 12}
    text = {"hidden_size": 512, "num_attention_heads": 8, "vocab_size": 49_408, **sides}
    text |= {"max_position_embeddings": 77, "eos_token_id": 49_407, "bos_token_id": 0}
    image = {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12}
    image |= {"intermediate_size": 3072, "image_size": 224, "patch_size": 16}
    if tiny:
        small = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
        text |= small | {"intermediate_size": 64}
        image |= small | {"intermediate_size": 64, "image_size": 32}
    for section in (text, image):
        section["hidden_act"] = "gelu"
    config = transformers.CLIPConfig(
        text_config=text, vision_config=image, projection_dim=512
    )
    config._attn_implementation = "sdpa"
    model = transformers.CLIPModel(config).to(device).train()
    report("parameters", sum(value.numel() for value in model.parameters()))
    report("attention", model.config._attn_implementation)
    side = image["image_size"]
    pixels = torch.randn(size, 3, side, side, device=device)
    words = torch.randint(1, 49_407, (size, 77), device=device)
    words[:, -1] = 49_407
    optimizer = torch.optim.AdamW(
        model.parameters(), 3e-4, (0.9, 0.98), 1e-6, weight_decay=0.2, fused=True
    )

    def wait(value: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for name in ("eager", "compiled"):
        # On a CPU inductor runs a C++ compiler for minutes.
        backend = "eager" if tiny else "inductor"
        run = model if name == "eager" else torch.compile(model, backend=backend)

        def begin():
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16):
                loss = run(  # noqa: B023
                    input_ids=words, pixel_values=pixels, return_loss=True
                ).loss
            loss.backward()
            optimizer.step()
            return loss

        try:
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            begin()
            wait(None)
            first = time.perf_counter() - start
            took = timing.per_call(begin, wait, seconds=2.5)
            rate = round(size / took["seconds"], 1)
            found = {"batch": size, "images_per_second": rate, "first_step": first}
            found["loss"] = float(begin().detach())
            if device == "cuda":
                found["peak_bytes"] = torch.cuda.max_memory_allocated()
            report(name, {**found, **took})
        except Exception as error:
            report(name, {"batch": size, "error": message(error)})
