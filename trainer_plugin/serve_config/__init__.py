"""`tokpack serve-config`: what real engines need to serve adapters, and what each refuses.

limits    adapter_config.json ─▶ what an engine refuses, and the way out
write     the base (through 4 bits where QLoRA trained on that), adapters in the engine's form
engines   start command, systemd unit, Docker Compose, README
gguf_adapter  adapters of Llama-like models for llama.cpp and Ollama
"""
