//! What a label says: an epoch (high 16 bits) and a set of modules (low 16 bits).

use link::Label;

/// Most modules of an epoch.
pub const MAX_MODULES: usize = 16;

/// The label of `modules` (module `i` is bit `i`) of `epoch`.
pub const fn label(epoch: u16, modules: u16) -> Label {
    Label((epoch as u32) << 16 | modules as u32)
}

/// The epoch a label names.
pub const fn epoch(label: Label) -> u16 {
    (label.0 >> 16) as u16
}

/// The modules a label names.
pub const fn modules(label: Label) -> u16 {
    label.0 as u16
}

/// Whether `epoch` comes after `other`, by serial number arithmetic (RFC 1982).
pub const fn later(epoch: u16, other: u16) -> bool {
    (epoch.wrapping_sub(other) as i16) > 0
}
