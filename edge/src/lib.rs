//! The Worker's three entry points. What they do stands in [`tcoder::edge`].
#![cfg(target_arch = "wasm32")]
