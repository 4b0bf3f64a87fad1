"""HTML report of a run: one self-contained page, and its plots as files.

run.py reads a workdir and fold_model.py a fold's model; tables.py, embedding.py,
gallery.py and the *_plots.py make the content; sections.py arranges it; page.py
renders it with page.html and page.css.
"""
