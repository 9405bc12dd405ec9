"""`tokpack eval`: is the adapter better than its base? Per document and question, paired, with intervals."""
