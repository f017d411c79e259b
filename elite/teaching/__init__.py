"""What only the book needs: figures, interactive figures, and the checks of its exercises."""
