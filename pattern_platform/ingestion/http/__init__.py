"""Sources over HTTP: pages are landed as files, whole or not at all, before anything reads them."""
