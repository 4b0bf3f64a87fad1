"""What a run has shown, as one page that opens from disk, and its figures as files.

run.py reads a workdir and tested.py a fold's model; tables.py, curves.py, training.py,
embedding.py, gallery.py and focus.py each make one kind of content; sections.py says
what the page holds in which order, page.py writes it by page.html and page.css.
"""
