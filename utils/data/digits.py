"""scikit-learn's 1,797 scanned digits, from the installed wheel, always divided in the same way."""

from __future__ import annotations

import numpy as np


def load_digits(*, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """(scans [samples, 8, 8] of 17 grey levels in 0..16, classes [samples]).

    A fifth of each class, always the same samples, is the test set.
    """
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    images, classes = datasets.load_digits(return_X_y=True)
    parts = train_test_split(images, classes, test_size=0.2, stratify=classes, random_state=0)
    images, classes = parts[0 if train else 1], parts[2 if train else 3]
    return images.reshape(-1, 8, 8), classes
