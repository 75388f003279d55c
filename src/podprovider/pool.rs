//! The WorkerPool that pods belong to. Pure.

use std::sync::Arc;

use super::template::PodTemplate;

/// A WorkerPool whose machines are pods, and how they are made.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPool {
    /// The namespace of the pool and of its pods.
    pub namespace: String,
    /// The name of the pool.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The template of its pods.
    pub template: Arc<PodTemplate>,
}

impl PodPool {
    /// Whether this is the same pool, perhaps with another template.
    #[must_use]
    pub fn is_same_pool(&self, other: &Self) -> bool {
        self.uid == other.uid && self.namespace == other.namespace
    }
}
