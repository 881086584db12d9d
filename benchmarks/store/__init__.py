"""What a store costs, beside what its database does alone."""
