"""`tokpack verify-served`: whether a server answers with the adapter, proven over HTTP.

    run       documents and chats ─▶ what the server says ─▶ what ours says ─▶ findings
    http      the server's side: log-probabilities of given tokens, and of the first tokens of chats
    ours      the same, by the base and each adapter in memory
    verdict   which of ours the server's figures are

Text at temperature 0 is no proof: rounding makes two runs of one server differ. Log-probabilities are,
relative to what the adapter changes.
"""
