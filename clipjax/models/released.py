"""A released model's towers, sizes, tokenizer and preprocessing, and its weights.

    --config FILE.py:model=released --config.model.path=clip-vit-base-patch32/

engine/architecture.py puts the model's settings in place of this section before a run
starts, so a saved config names them and not this component.
"""

from __future__ import annotations

from typing import Any, NoReturn

from clipjax.types import UserError


def make(
    image_tower: Any, text_tower: Any, *, path: str = "", preprocess: str = ""
) -> NoReturn:
    """Refuses a section that was not replaced.

    Args:
      path: the released model: a folder, a file, or hf-hub:ORG/NAME.
      preprocess: how it prepares images if its files do not say so: clip, squash or
        openai.

    Raises:
      UserError: always.
    """
    raise UserError(
        f"model=released, model.path={path!r}: train such a config by "
        "clipjax.train_model or python -m clipjax.train, which read the model's "
        "settings"
    )
