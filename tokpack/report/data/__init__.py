"""What is in the data and how its rows come out: figures, words, tables and charts."""
