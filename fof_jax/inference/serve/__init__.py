"""Local web page that grades an image and shows the class activation map."""
