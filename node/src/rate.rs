//! Our congestion controller for quinn: a link follows its rate, not its losses.
