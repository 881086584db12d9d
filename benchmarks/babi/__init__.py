"""Memory Networks and End-To-End Memory Networks on bAbI."""
