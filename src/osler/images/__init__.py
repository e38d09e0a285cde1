"""Pixels: image files, DICOM, series, volumes and studies. `osler.images.load(path)` gives the pictures of any of them."""

from osler.images.study import load as load
