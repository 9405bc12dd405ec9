"""Stage 1: inputs are found, opened whatever they are packed in, and cut into blocks of rows."""
