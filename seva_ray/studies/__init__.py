"""What a study searches (its space), what it found (its rows), and the curve of its scores over pairs."""
