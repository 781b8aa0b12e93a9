"""openlstm: an LSTM you can see through, at the speed of the hardware."""
