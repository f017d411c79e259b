"""Open Images: download it, index it, and make the training samples of both stages from it."""
