#!/bin/sh
# What `make demo` runs: fine-tune on support tickets in English and Spanish, evaluate, predict. About two minutes on two cores.
set -eu
cd "$(dirname "$0")/.."
show() { echo; echo "\$ $*"; "$@"; }

runs=runs; number=1
while [ -e "$runs/demo-$number" ]; do number=$((number + 1)); done
run=$runs/demo-$number

show kitune train examples/tickets.csv --text text --label intent --group customer --out "$run" --set train.epochs=4
show kitune evaluate "$run" examples/tickets_test.csv
echo
echo "\$ kitune predict $run -  (five new sentences)"
kitune predict "$run" - --keep text <<'TICKETS'
I was charged twice this month and only have one account
the parcel says delivered but nobody rang and there is nothing at the door
could you add a dark theme, my eyes hurt in the evening
after the update the app closes as soon as I open my basket
Quiero que me devuelvan el dinero, la lámpara llegó rota
TICKETS
echo
echo "The run is in $run: the model in $run/best, scores in $run/metrics.json, every step in $run/events.jsonl."
