"""A web page on this machine: drop an image, see grade and focus."""
