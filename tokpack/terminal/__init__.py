"""What a person at the terminal sees and presses: what goes on, text made harmless, Ctrl-C."""
