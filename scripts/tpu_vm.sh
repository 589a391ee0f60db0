#!/usr/bin/env bash
# Train on every host of a TPU VM slice; the same command again resumes the run.
#
#   scripts/tpu_vm.sh NAME ZONE /mnt/nfs/runs/x configs/vit_b16.py [--config.KEY=VALUE ...]
#
# Needs gcloud, a TPU VM called NAME in ZONE with a clone of this repository in
# ~/clipjax, and a workdir that every host sees (Filestore or another NFS mount). jax
# finds the other hosts itself.
set -euo pipefail
if [ $# -lt 4 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1 zone=$2
args=$(printf '%q ' --config "$4" --workdir "$3" "${@:5}")
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
  cd ~/clipjax &&
  pip install -q -e '.[tpu]' &&
  python -m clipjax.train $args"
