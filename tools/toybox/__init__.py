"""Programs that train the toybox backbone, one a part; ``elite.toybox.train_all`` runs them in order."""
