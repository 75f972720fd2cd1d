//! Layered configuration: defaults, TOML file, `ANABRANCH_…` environment, flags; unknown fields are errors.
