"""What goes on to the engine as it came: which paths, which headers, and what is counted on the way."""
