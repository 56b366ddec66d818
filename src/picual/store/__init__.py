"""Content-addressed folders by digest; knows nothing of passes."""
