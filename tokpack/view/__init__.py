"""A local page over a packed dataset: its rows, its documents, and what was left out.

table      kept pieces and left-out documents as frames: filter, sort, pages
texts      all texts, made in the background, to be searched
detail     one document for the page: runs of text and what they are
wishes     the keep list that the page writes
server     the routes; nothing but loopback, a token in every address
files/     the page itself
"""
