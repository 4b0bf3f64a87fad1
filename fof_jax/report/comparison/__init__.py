"""Page of a comparison: tables, points with intervals, costs; and finished runs."""
