//! A lossy path, as a pure model shared by the simulator and the emulator.
