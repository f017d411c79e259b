"""Training of both stages: one step (`steps`), its random draws, what is computed once, and the loop around them."""
