#!/usr/bin/env bash
# Measures one accelerator, part by part, into one JSON file.
#
#   bash benchmarks/accelerator.sh --out h100.json [--wheels DIR] [--parts a,b] [--tiny]
#
# It needs a checkout and no network. $PYTHON is the interpreter (default: python3).
# benchmarks/accelerator/__main__.py lists the parts.
set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$(dirname "$here"):$here${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
exec "${PYTHON:-python3}" -m accelerator "$@"
