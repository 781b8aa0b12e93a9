"""What can be measured of a recurrent network: one file a diagnostic, with its formula, its result and its drawing."""
