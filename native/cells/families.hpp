// The files of cells: one name each. A cell is a struct in one of them and a line in the table at its end.
#pragma once

#define OPENLSTM_FAMILIES(with) with(lstm) with(gru) with(rnn) with(layer_norm) with(slstm) with(minimal)
