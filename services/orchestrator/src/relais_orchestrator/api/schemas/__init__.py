"""Fields that several routes' schemas share, each with its bounds."""
