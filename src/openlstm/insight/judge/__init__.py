"""What follows from the measures: the lag that the data require, the verdict on a lag, horizons, advice."""
