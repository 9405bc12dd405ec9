"""The bill before training: its figures, words, tables and charts."""
