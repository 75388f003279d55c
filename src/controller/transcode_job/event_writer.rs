//! Writes Events about TranscodeJobs.
//!
//! The `Recorder` of kube-runtime is not used: it counts all Events of one reason as one for some minutes, and keeps the note of
//! the first, so that those who read the Events learn nothing about any later attempt. Here an Event with another note is
//! another Event; only the same one is counted.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::events::EventDraft;
use crate::controller::conditions::cut;

/// For how long after an Event the same one is counted with it, as Kubernetes does.
const SERIES: Duration = Duration::from_secs(360);
/// Number of Events that are remembered for that.
const REMEMBERED: usize = 4096;
/// Maximum length of the name of an object, which is that of its Events with a dot and 16 hexadecimal digits.
const NAME_MAX: usize = 253 - 17;

/// Writes Events about TranscodeJobs.
pub(crate) struct EventWriter {
    client: Client,
    /// The name of the controller.
    controller: &'static str,
    /// The name of this process.
    instance: String,
    recent: Mutex<Recent>,
}

/// What makes two Events the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// The uid of the object.
    object: String,
    warning: bool,
    reason: String,
    note: String,
}

/// An Event that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    name: String,
    /// How often it was told.
    count: i32,
    last: Instant,
}

/// The Events that were written a short time ago.
#[derive(Default)]
struct Recent(HashMap<Key, Written>);

impl Recent {
    /// The Event that is told once more.
    fn same(&self, key: &Key, now: Instant) -> Option<Written> {
        self.0.get(key).filter(|written| is_recent(written, now)).cloned()
    }

    fn remember(&mut self, key: Key, written: Written) {
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, known| is_recent(known, written.last));
        }
        // One that is not remembered is written anew when it is told again.
        if self.0.len() < REMEMBERED || self.0.contains_key(&key) {
            self.0.insert(key, written);
        }
    }
}

fn is_recent(written: &Written, now: Instant) -> bool {
    now.saturating_duration_since(written.last) < SERIES
}

impl EventWriter {
    /// A writer that has written nothing yet. `instance` is the name of this process.
    #[must_use]
    pub(crate) fn new(client: Client, controller: &'static str, instance: String) -> Self {
        Self { client, controller, instance, recent: Mutex::default() }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an Event about an object.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub(crate) async fn write(&self, about: ObjectReference, draft: EventDraft) -> Result<(), kube::Error> {
        let EventDraft { warning, reason, message } = draft;
        let key = Key { object: about.uid.clone().unwrap_or_default(), warning, reason, note: cut(message) };
        let api: Api<Event> =
            Api::namespaced(self.client.clone(), about.namespace.as_deref().unwrap_or("default"));
        let now = Timestamp::now();
        let same = self.recent().same(&key, Instant::now());
        let written = match same {
            Some(before) if self.count(&api, &before, now).await? => {
                Written { count: before.count.saturating_add(1), ..before }
            }
            _ => Written { name: self.create(&api, about, &key, now).await?, count: 1, last: Instant::now() },
        };
        self.recent().remember(key, Written { last: Instant::now(), ..written });
        Ok(())
    }

    /// Counts an Event once more. Returns `false` if it does not exist any more.
    async fn count(&self, api: &Api<Event>, before: &Written, now: Timestamp) -> Result<bool, kube::Error> {
        let count = before.count.saturating_add(1);
        let series = json!({"series": {"count": count, "lastObservedTime": MicroTime(now)}});
        match api.patch(&before.name, &PatchParams::default(), &Patch::Merge(series)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            done => done.map(|_| true),
        }
    }

    /// Creates an Event and returns its name.
    async fn create(
        &self,
        api: &Api<Event>,
        about: ObjectReference,
        key: &Key,
        now: Timestamp,
    ) -> Result<String, kube::Error> {
        let name = name(about.name.as_deref().unwrap_or(self.controller), now);
        let event = Event {
            action: Some("Reconcile".to_owned()),
            event_time: Some(MicroTime(now)),
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: about.namespace.clone(),
                ..ObjectMeta::default()
            },
            note: Some(key.note.clone()),
            reason: Some(key.reason.clone()),
            regarding: Some(about),
            reporting_controller: Some(self.controller.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if key.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        };
        api.create(&PostParams::default(), &event).await?;
        Ok(name)
    }
}

/// The name of an Event about the object with this name, as Kubernetes names its own.
fn name(object: &str, now: Timestamp) -> String {
    let object = &object[..object.floor_char_boundary(NAME_MAX)];
    format!("{}.{:016x}", object.trim_end_matches(['.', '-']), now.as_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(note: &str) -> Key {
        Key { object: "1".into(), warning: true, reason: "AttemptFailed".into(), note: note.into() }
    }

    #[test]
    fn event_with_another_note_is_another_event_and_the_same_is_counted_for_a_while() {
        let start = Instant::now();
        let mut recent = Recent::default();
        let written = Written { name: "film.1".into(), count: 1, last: start };
        recent.remember(key("attempt 1 failed"), written.clone());
        assert_eq!(recent.same(&key("attempt 1 failed"), start), Some(written));
        assert_eq!(recent.same(&key("attempt 2 failed"), start), None);
        assert_eq!(recent.same(&Key { object: "2".into(), ..key("attempt 1 failed") }, start), None);
        assert_eq!(recent.same(&key("attempt 1 failed"), start + SERIES), None);
    }

    #[test]
    fn few_events_are_remembered() {
        let start = Instant::now();
        let mut recent = Recent::default();
        let written = |last| Written { name: "film.1".into(), count: 1, last };
        for n in 0..=REMEMBERED {
            recent.remember(key(&n.to_string()), written(start));
        }
        assert_eq!(recent.0.len(), REMEMBERED);
        recent.remember(key("late"), written(start + SERIES));
        assert_eq!(recent.0.keys().collect::<Vec<_>>(), [&key("late")]);
    }

    #[test]
    fn name_of_an_event_is_a_name() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        assert_eq!(name("film", now), "film.17979cfe362a0000");
        let long = name(&format!("{}.{}", "f".repeat(235), "g".repeat(17)), now);
        assert!(long.len() <= 253 && long.contains("f.1797"), "{long}");
    }
}
