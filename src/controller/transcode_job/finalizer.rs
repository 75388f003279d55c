//! The finalizer of a TranscodeJob, which is there while its job is active: the job is cancelled before the object goes.

use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::Guarded;
use super::reconcile::{Context, ReconcileError, answer};
use crate::crd::FINALIZER;
use crate::job::JobId;

impl Context {
    /// Adds the finalizer. kube's `finalizer()` is not used because it accepts only objects that deserialize. Without the
    /// finalizer nothing may be submitted: nobody would cancel the job.
    pub(super) async fn hold(&self, object: &Guarded, id: JobId) -> Result<(), ReconcileError> {
        let there = object.finalizers();
        if there.iter().any(|f| f == FINALIZER) || self.index().holds(id) {
            return Ok(());
        }
        // The test operation fails if another client changed the list in the meantime.
        let patch = if there.is_empty() {
            [
                json!({"op": "test", "path": "/metadata/finalizers", "value": null}),
                json!({"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]}),
            ]
        } else {
            [
                json!({"op": "test", "path": "/metadata/finalizers", "value": there}),
                json!({"op": "add", "path": "/metadata/finalizers/-", "value": FINALIZER}),
            ]
        };
        if !self.patch_list(object, patch).await? {
            return Err(ReconcileError::Gone);
        }
        self.index().hold(id);
        Ok(())
    }

    /// Removes the finalizer.
    pub(super) async fn release(&self, object: &Guarded, id: JobId) -> Result<(), ReconcileError> {
        // The store may not show a finalizer that was just added; the next reconciliation will see it.
        let Some(at) = object.finalizers().iter().position(|f| f == FINALIZER) else { return Ok(()) };
        let path = format!("/metadata/finalizers/{at}");
        let patch =
            [json!({"op": "test", "path": path, "value": FINALIZER}), json!({"op": "remove", "path": path})];
        self.patch_list(object, patch).await?;
        self.index().release(id);
        Ok(())
    }

    /// Changes the list of finalizers of this object, and of no other that was made under its name since. Returns whether
    /// there is such an object.
    async fn patch_list<const N: usize>(
        &self,
        object: &Guarded,
        operations: [serde_json::Value; N],
    ) -> Result<bool, ReconcileError> {
        let is_this = json!({"op": "test", "path": "/metadata/uid", "value": object.uid()});
        let patch = [&[is_this][..], &operations].concat();
        let patch = serde_json::from_value(patch.into()).map_err(kube::Error::SerdeError)?;
        let patch = Patch::<()>::Json(patch);
        let api = self.api(object);
        let patched = answer(api.patch_metadata(&object.name_any(), &PatchParams::default(), &patch)).await?;
        Ok(patched.is_some())
    }
}
