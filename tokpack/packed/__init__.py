"""A packed folder after `pack`: opened, shown, checked, joined, packed anew.

folder               what `open_packed` gives
viewer               `tokpack inspect`
verification         `tokpack verify`
merging, repacking   `tokpack merge`, `tokpack repack`; what they share: derive, derived_report, stored_pieces
push                 `tokpack push`
"""
