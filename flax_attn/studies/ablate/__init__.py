"""Many small trainings under one budget: score × alignment × seed, on frozen features."""
