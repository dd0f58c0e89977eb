"""Blog visits: hourly landing files and what is made of them."""
