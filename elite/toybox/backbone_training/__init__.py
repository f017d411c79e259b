"""Programs that train the toybox backbone, one module a part; ``python -m elite.toybox.train_all`` runs them in order."""
