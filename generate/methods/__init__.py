"""One short file per method; `drspo` is a folder, since it is two of them in a row."""
