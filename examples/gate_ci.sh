#!/bin/sh
# A merge gate: re-express the model for the chip and stop the merge where it lost too much.
#
# For whoever owns the build: JUnit is what CI servers show, the exit code is what stops them
# (0 passed, 2 bad input, 3 a gate was missed).
#
#     examples/gate_ci.sh build/gate [model.tflite images/ [target [least agreement]]]
#
# Without a model it takes the bundled network. PYTHON names the interpreter that tf_requant is installed in.
set -eu

[ $# -gt 0 ] || { echo "usage: gate_ci.sh FOLDER [MODEL DATA [TARGET [MIN_AGREEMENT]]]" >&2; exit 2; }
folder=$1
bundled() { "${PYTHON:-python3}" -c "from tf_requant import sample; print(sample.$1())"; }
model=${2:-$(bundled model_path)}
data=${3:-$(bundled evaluation_path)}
target=${4:-nna_sym8_pow2}
min_agreement=${5:-0.95}

mkdir -p "$folder"
"${PYTHON:-python3}" -m tf_requant requantize --verbosity=-1 --overwrite \
    --model="$model" --target="$target" --output="$folder/candidate.tflite"
# With `set -e` this command's code is the script's.
"${PYTHON:-python3}" -m tf_requant validate --verbosity=-1 \
    --model="$folder/candidate.tflite" --reference="$model" --data="$data" --target="$target" \
    --min_agreement="$min_agreement" --junit="$folder/junit.xml" --json="$folder/check.json"
