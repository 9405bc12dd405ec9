#!/usr/bin/env bash
# From raw chats to a trained adapter: demo.sh MODEL_FOLDER OUT_FOLDER
set -euo pipefail
model="$1"
out="$2"
here="$(dirname "$0")"
say() { printf '\n\033[1m== %s\033[0m (%d:%02d)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }
rm -rf "$out"
mkdir -p "$out"

say "20,000 chats with the mess of real sets"
python "$here/make_demo_data.py" "$out/chats.jsonl"

say "tokpack analyze: what is in the data, what packing saves"
tokpack analyze "$out/chats.jsonl" --tokenizer "$model" --max-length 512 --html "$out/report.html"

say "tokpack pack"
tokpack pack "$out/chats.jsonl" --tokenizer "$model" --max-length 512 --val 0.0005 -o "$out/packed"

say "tokpack verify: bytes, rows, ledger, and isolation on the model itself"
tokpack verify "$out/packed" --model "$model"

say "tokpack train: QLoRA on the packed rows"
tokpack train "$out/packed" --model "$model" --method qlora --max-steps 20 -o "$out/adapter"

say "tokpack eval: the adapter against its base, document by document"
tokpack eval "$out/packed" --model "$model" --adapter "$out/adapter" --no-probe --html "$out/evaluation.html"

say "done"
bin="$(dirname "$(command -v tokpack)")"
cat <<END
report   $out/report.html
shards   $out/packed
adapter  $out/adapter
better?  $out/evaluation.html

and now, a row as people read it, the bill on a rented card, the adapter in the model:
  source ${bin#"$PWD"/}/activate
  tokpack inspect $out/packed --row 3
  tokpack analyze $out/chats.jsonl --tokenizer "$model" --max-length 512 --model "$model" --gpu a10
  tokpack merge-adapter $out/adapter -o $out/merged
END
