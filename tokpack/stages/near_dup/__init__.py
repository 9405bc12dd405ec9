"""Near duplicates, all of them: an exact join of the documents' sets of n-grams.

near_dup     the stage, and why none is lost
kinds        what is found beside duplicates
ngram_sets   its compiled loops: from tokens to sets of n-grams
ngram_join   its compiled loops: from the sets to the pairs
"""
