# Every recipe is a step of .ci/run, so that a person and CI run the same checks.

# All checks, as CI runs them
all:
    .ci/run

# Format, purity of the pure rooms, licences, lints, documentation
check:
    .ci/run fmt purity deny clippy docs

# The quick tests
test:
    .ci/run test

# The long tests
long:
    .ci/run long

# Instructions on the way of a packet, against those kept with the code
cost:
    .ci/run cost

# Live video through a lossy overlay, on this machine
demo *args:
    cargo demo {{args}}

# Coverage-guided fuzzing of one target (needs `cargo install cargo-fuzz`)
fuzz target seconds='600':
    cd tests/fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run {{target}} -- -max_total_time={{seconds}}
