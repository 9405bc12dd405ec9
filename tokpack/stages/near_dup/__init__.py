"""Near duplicates, all of them: an exact join of the documents' sets of n-grams.

near_dup     the stage, and why none is lost
kinds        what is found beside duplicates
steps        its steps, on all cores and in pieces
ngram_sets   its compiled loops: from tokens to the rarest n-grams of each set
ngram_join   its compiled loops: from these to the pairs
"""
