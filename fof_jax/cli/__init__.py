"""The verbs of the command line, one file each: flags to one library call."""
