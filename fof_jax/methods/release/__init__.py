"""The authors' objective, as peterlipan/FoF at bb398fe computes it, quirks included.

Written from docs/parity.md, which numbers what sets that code apart from the paper; a
comment `# Q16` marks the place that reproduces item 16.
"""
