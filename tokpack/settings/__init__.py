"""Settings: what a file or the flags say, as one frozen dataclass a stage, within their limits."""
