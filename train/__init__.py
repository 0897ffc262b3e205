"""Training, evaluating and applying the classifiers."""
