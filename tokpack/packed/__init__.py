"""A packed folder after `pack`: opened, shown, checked, joined, packed anew.

folder               what `open_packed` gives
viewer               `tokpack inspect`
verification         `tokpack verify`
merging, repacking   `tokpack merge`, `tokpack repack`; what they share: derive, stored_pieces
fresh_folder         a folder that is there when it is whole: theirs and that of `tokpack export`
"""
