"""In scikit-learn: a classifier that goes on learning, in a pipeline and in a grid search.

python examples/sklearn_pipeline.py
"""

from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

from rarememory.integrations.sklearn import MemoryNeighbors

X, y = load_digits(return_X_y=True)
X, X_new, y, y_new = train_test_split(X, y, test_size=0.5, random_state=0)

pipeline = make_pipeline(PCA(30), MemoryNeighbors())
grid = GridSearchCV(pipeline, {"memoryneighbors__n_neighbors": [1, 5]}, cv=2).fit(X, y)
print(f"{grid.best_params_}: {grid.score(X_new, y_new):.0%} of new digits known")

# The first five digits to begin with; the others come later, and need not be announced.
early = y < 5
digits = MemoryNeighbors(n_neighbors=3).fit(X[early], y[early])
print(f"knows {digits.classes_.tolist()}: {digits.score(X_new, y_new):.0%}")
digits.partial_fit(X[~early], y[~early])
print(f"knows {digits.classes_.tolist()}: {digits.score(X_new, y_new):.0%}")

[distances], [samples] = digits.kneighbors(X_new[:1])
print(f"a {y_new[0]}: samples {samples.tolist()} are {distances.round(2).tolist()} away")
