"""LoRA and QLoRA: made, loaded, merged, converted, published."""
