#!/usr/bin/env bash
# Trains on every host of a TPU VM slice. The same command resumes the run.
#
#   scripts/tpu_vm.sh NAME ZONE /mnt/nfs/runs/x configs/vit_b16.py [--config.KEY=VALUE ...]
#
# It needs gcloud, a TPU VM named NAME in ZONE with a clone of this repository in
# ~/clipjax, and a workdir that every host can read and write (Filestore or another NFS
# mount). jax detects the other hosts.
set -euo pipefail
if [ $# -lt 4 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1 zone=$2
args=$(printf '%q ' --config "$4" --workdir "$3" "${@:5}")
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
  cd ~/clipjax &&
  pip install -q -e '.[tpu]' &&
  python -m clipjax.train $args"
