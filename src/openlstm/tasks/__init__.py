"""One readable file per task; the torch-free half of each (predict, evaluate) stands beside the half that trains."""
