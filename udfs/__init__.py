"""How it is done on Spark workers: pandas in, pandas out; knows no table names."""
