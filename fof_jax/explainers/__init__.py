"""Maps of what an image classifier looks at, and rules that look at pixels only."""
