"""What a run has shown, as one page that opens from disk, and its figures as files.

run.py reads a workdir; tables.py, curves.py, training.py, embedding.py and gallery.py
each make one kind of content of it; page.py puts them in order into page.html.
"""
