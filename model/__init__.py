"""How it is done in theory: torch; knows neither Spark nor Airflow."""
