"""One header of C99 from a layer or a model: `header.write`."""
