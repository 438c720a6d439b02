"""The web application: a page that turns photos into masks, on the parts of :mod:`gluonseg.serve`."""
