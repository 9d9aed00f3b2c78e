#!/usr/bin/env bash
# From a clone to a trained, evaluated model: environment, demo data, training, evaluation, report. No GPU needed.
# Run it again to continue where it was interrupted; what is done already is skipped.
# Arguments go to the training:  bash launch/quickstart.sh --config.train.steps=50
set -euo pipefail
# shellcheck source=launch/_environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

data=data_out/synthetic_city
run=runs/demo

say_how_to_go_on() { [[ $? == 0 ]] || echo "stopped; 'bash launch/quickstart.sh' goes on from here" >&2; }
trap say_how_to_go_on EXIT

make_environment requirements.lock
cd "$REPO"
if [[ ! -f $data/dataset_card.json ]]; then
    say "1/4 demo data: procedural city scenes, RGB and height ($data)"
    "$VENV/bin/dis2" data prepare synthetic_city --out "$data"
else
    say "1/4 demo data: $data is there"
fi
say "2/4 training: configs/demo.py ($run)"
"$VENV/bin/dis2" train --config configs/demo.py --workdir "$run" --config.data.dir="$data" "$@"
say "3/4 evaluation on held-out scenes: every missing-modality scenario, and the full model fed zeros instead"
"$VENV/bin/dis2" evaluate --workdir "$run"
say "4/4 report: one page about the run"
"$VENV/bin/dis2" report --workdir "$run"
say "done"
printf '%s\n' \
    "dataset      $REPO/$data" \
    "report       $REPO/$run/report.html (open it in a browser)" \
    "tables       $REPO/$run/evaluation" \
    "curves       $REPO/$run/tensorboard, $REPO/$run/metrics.jsonl" \
    "use it       source .venv/bin/activate; python -c 'import dis2_jax; print(dis2_jax.load(\"$run\").scenarios)'"
