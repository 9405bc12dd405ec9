# What both jobs are given: it must be the same, or the run that finishes refuses the parts.
export HF_HUB_OFFLINE=1 # the tokenizer lies in a folder that all nodes see
ARGUMENTS=(
    "${DATA:-/shared/data/chats/*.jsonl}"
    --tokenizer "${TOKENIZER:-/shared/models/SmolLM2-135M-Instruct}"
    --max-length "${MAX_LENGTH:-4096}"
    --out "${OUT:-/shared/packed}"
    # --work-dir s3://BUCKET/PREFIX    # instead of a folder that all nodes see: parts leave their blocks there
)
