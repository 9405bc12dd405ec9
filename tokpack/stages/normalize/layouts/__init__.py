"""Which layout the rows of a source have, and in which columns the fields of its documents stand."""
