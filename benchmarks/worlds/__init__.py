"""The memory over frozen encoders and real data, beside what scikit-learn has for the same."""
