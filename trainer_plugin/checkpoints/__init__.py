"""Models and adapters of anybody, read by form before a library of training obeys them."""
