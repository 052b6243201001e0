"""Each version of the tables is one file of `versions`; `recsys db upgrade` applies them in order."""
