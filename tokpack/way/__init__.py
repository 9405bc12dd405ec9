"""The data's way, a file a step; `tokpack/pipeline.py` names them in order."""
