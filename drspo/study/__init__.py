"""The paper in miniature: pairs, both trainings and every row of its tables, on the embedded zoo."""
