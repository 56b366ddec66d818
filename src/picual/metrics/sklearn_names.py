"""Which functions of ``sklearn.metrics`` score predictions, known without importing scikit-learn.

What is installed is read from its own list of names. Without it, the functions of version 1.9 are known.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path

# They take the probability of each class, which `by: likelihood` gives.
OF_PROBABILITIES = (
    "average_precision_score", "brier_score_loss", "d2_brier_score", "d2_log_loss_score", "log_loss",
    "roc_auc_score", "top_k_accuracy_score",
)  # fmt: skip
OF_NUMBERS = (
    "d2_absolute_error_score", "d2_pinball_score", "d2_tweedie_score", "explained_variance_score", "max_error",
    "mean_absolute_error", "mean_absolute_percentage_error", "mean_gamma_deviance", "mean_pinball_loss",
    "mean_poisson_deviance", "mean_squared_error", "mean_squared_log_error", "mean_tweedie_deviance",
    "median_absolute_error", "r2_score", "root_mean_squared_error", "root_mean_squared_log_error",
)  # fmt: skip
OF_CLASSES = (
    "accuracy_score", "adjusted_mutual_info_score", "adjusted_rand_score", "balanced_accuracy_score",
    "cohen_kappa_score", "completeness_score", "f1_score", "fbeta_score", "fowlkes_mallows_score", "hamming_loss",
    "homogeneity_score", "jaccard_score", "matthews_corrcoef", "mutual_info_score", "normalized_mutual_info_score",
    "precision_score", "rand_score", "recall_score", "v_measure_score", "zero_one_loss",
)  # fmt: skip
# They score something else than an answer a row: a clustering of points, a ranking, many labels a row.
OTHERS = frozenset({
    "auc", "calinski_harabasz_score", "consensus_score", "coverage_error", "davies_bouldin_score", "dcg_score",
    "hinge_loss", "label_ranking_average_precision_score", "label_ranking_loss", "ndcg_score", "silhouette_score",
})  # fmt: skip
FALL = ("_loss", "_error", "_deviance")  # endings of what is better when lower
RISE = ("_score", "_corrcoef")


def names() -> tuple[str, ...]:
    """Return the names of the functions that score predictions."""
    installed = _installed()
    known = (*OF_CLASSES, *OF_NUMBERS, *OF_PROBABILITIES)
    if not installed:
        return known
    newer = [name for name in installed if name.endswith(FALL + RISE) and name not in {*known, *OTHERS}]
    return (*(name for name in known if name in installed), *newer)


def falls(name: str) -> bool:
    """Say whether a lower number is the better one: a loss, an error."""
    return name.endswith(FALL)


@functools.cache
def _installed() -> frozenset[str]:
    """Return the public names of the installed ``sklearn.metrics``; none where it is not installed."""
    found = importlib.util.find_spec("sklearn")  # finds the folder, imports nothing
    places = found.submodule_search_locations if found is not None else None
    listing = Path(next(iter(places), "")) / "metrics" / "__init__.py" if places else None
    if listing is None or not listing.is_file():
        return frozenset()
    for node in ast.parse(listing.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(getattr(one, "id", "") == "__all__" for one in node.targets):
            return frozenset(ast.literal_eval(node.value))
    return frozenset()
