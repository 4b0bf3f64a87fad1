"""Cell graphs: records, construction from images, the published files, padding."""
