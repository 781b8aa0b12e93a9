"""Trained recurrent layers from other packages and to them: files and objects in, files and objects out."""
