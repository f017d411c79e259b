"""Reading and writing files: whole or not at all, with one clear sentence for what is damaged."""
