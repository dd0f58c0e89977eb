"""New York flights of 2013: daily landing files and what is made of them."""
