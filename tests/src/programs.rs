//! The real programs as processes.
