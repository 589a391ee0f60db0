"""What seeds tell about the cells of a study; NumPy and SciPy alone."""
