//! Whether programs that open files of strangers are confined.

use strum::{Display, EnumString};

/// Whether FFmpeg runs in a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Display, EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum SandboxMode {
    /// With all that the kernel offers.
    #[default]
    Preferred,
    /// The worker does not start if the kernel lacks a part.
    Required,
    /// Without a sandbox.
    Off,
}
