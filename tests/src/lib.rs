//! End to end: scenarios, real programs, real media, fuzz corpora.
