"""A study: a sweep under Ray Tune, and the server that shares work between its trials."""
