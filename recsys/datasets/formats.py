"""Names of the data-set formats, for help texts: importing this module does not load pyarrow."""

KUAIRAND = "kuairand"
TABLE = "table"
FORMATS = ("movielens-100k", "movielens-1m", "movielens-csv", "recbole", KUAIRAND, TABLE)
