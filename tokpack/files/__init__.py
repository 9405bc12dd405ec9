"""Files that are whole or not there: contents before names, one writer, our own files alone removed."""
