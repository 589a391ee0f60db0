"""Which of a source's label sets is meant."""

from __future__ import annotations

from clipjax.types import Source, UserError


def find_label_set(source: Source, label_set: str) -> str | None:
    """The label set of that name; for "" the only one, None where there are others.

    Raises UserError for one that the source does not have.
    """
    known = source.class_names
    if not label_set:
        return next(iter(known)) if len(known) == 1 else None
    if label_set not in known:
        raise UserError(
            f"data.label_set={label_set!r}: the data have the label sets "
            f"{', '.join(known) or '(none)'}"
        )
    return label_set
