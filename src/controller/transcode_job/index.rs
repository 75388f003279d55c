//! Maps jobs to their objects, and filters the job events that require a reconciliation. No I/O.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use url::Url;

use super::Guarded;
use crate::crd::{JOB_ID_LABEL, SecretKeyRef, TranscodeJobStatus};
use crate::job::{JobEvent, JobId, SecretRef};

/// Minimum time between two progress updates of a job.
pub(crate) const PROGRESS: Duration = Duration::from_secs(10);

/// Minimum time between two updates of a job because attempts at its parts failed.
const PART_FAILURES: Duration = Duration::from_secs(2);

/// The job of an object. A mirror's label names it. Other objects use their UID as the job id: submitting the
/// same object twice is a no-op, and recreating an object under the same name makes a new job.
#[must_use]
pub(crate) fn job_id(object: &Guarded, mirrors: Option<&str>) -> Option<JobId> {
    match mirrored(object, mirrors) {
        Some(id) => Some(id),
        None => object.uid()?.parse().ok(),
    }
}

/// The job that an object mirrors. Mirrors only count in the controller's own namespace: otherwise anyone who
/// may create a TranscodeJob anywhere could read any job.
#[must_use]
pub(crate) fn mirrored(object: &Guarded, mirrors: Option<&str>) -> Option<JobId> {
    let there = mirrors.is_some() && object.namespace().as_deref() == mirrors;
    object.labels().get(JOB_ID_LABEL).filter(|_| there)?.parse().ok()
}

/// Number of deleted objects whose webhooks are remembered: those about their end are sent after their deletion.
const REMEMBERED: usize = 10_000;

/// The webhook that a TranscodeJob requests, with the Secret of its own namespace that signs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebhookRequest {
    /// The address of the receiver.
    pub url: Url,
    /// The Secret.
    pub secret: SecretRef,
}

impl WebhookRequest {
    /// The webhook of an object; `None` if it requests none.
    #[must_use]
    pub(crate) fn of(object: &Guarded) -> Option<Self> {
        let asked = object.0.as_ref().ok()?.spec.webhook.as_ref()?;
        let SecretKeyRef { name, key } = asked.secret_ref.clone();
        let secret = SecretRef { namespace: object.namespace()?, name, key };
        Some(Self { url: asked.url.parse().ok()?, secret })
    }
}

/// What is known about the objects between two reconciliations.
#[derive(Default)]
pub(crate) struct Index {
    objects: HashMap<JobId, ObjectRef<Guarded>>,
    webhooks: HashMap<JobId, WebhookRequest>,
    /// The deleted objects among them, the first one first.
    deleted: VecDeque<JobId>,
    /// Jobs with events since their object was last reconciled.
    dirty: HashSet<JobId>,
    headway: HashMap<JobId, Instant>,
    /// When an attempt at a part of these jobs failed.
    part_failures: HashMap<JobId, Instant>,
    /// Jobs of which another part failed soon after that, and when their objects are due.
    postponed: HashMap<JobId, Instant>,
    /// Statuses as written by this process; the store of the watch may lag behind.
    written: HashMap<JobId, TranscodeJobStatus>,
    failures: HashMap<JobId, u32>,
    /// Objects that have our finalizer; the store may not show it yet.
    held: HashSet<JobId>,
    /// Mirrors, and whether their job has finished. Job ids sort by age.
    mirrors: BTreeMap<JobId, bool>,
}

/// Whether another mirror may be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// The job already has a mirror or an object of its own.
    There,
    /// There is room.
    Free,
    /// There is room after this mirror is deleted.
    InPlaceOf(String),
    /// There is no room.
    None,
}

impl Index {
    /// Adds an object, with its webhook if it requests one.
    pub(crate) fn put(&mut self, id: JobId, object: ObjectRef<Guarded>, webhook: Option<WebhookRequest>) {
        self.objects.insert(id, object);
        match webhook {
            Some(webhook) => {
                self.deleted.retain(|deleted| *deleted != id);
                self.webhooks.insert(id, webhook)
            }
            None => self.webhooks.remove(&id),
        };
    }

    /// The webhook of an object, also of one that was deleted a while ago.
    #[must_use]
    pub(crate) fn webhook(&self, id: JobId) -> Option<&WebhookRequest> {
        self.webhooks.get(&id)
    }

    /// Removes an object. Its webhook is remembered for a while.
    pub(crate) fn remove(&mut self, id: JobId) {
        let is_there = self.objects.remove(&id).is_some();
        if is_there && self.webhooks.contains_key(&id) {
            self.deleted.push_back(id);
            while self.deleted.len() > REMEMBERED {
                if let Some(oldest) = self.deleted.pop_front()
                    && !self.objects.contains_key(&oldest)
                {
                    self.webhooks.remove(&oldest);
                }
            }
        }
        self.dirty.remove(&id);
        self.headway.remove(&id);
        self.part_failures.remove(&id);
        self.postponed.remove(&id);
        self.written.remove(&id);
        self.failures.remove(&id);
        self.held.remove(&id);
        self.mirrors.remove(&id);
    }

    /// Adds a mirror.
    pub(crate) fn put_mirror(&mut self, id: JobId, object: ObjectRef<Guarded>, ended: bool) {
        self.objects.insert(id, object);
        self.mirrors.insert(id, ended);
    }

    /// Reserves a place for a mirror that is about to be created, of at most `most`.
    pub(crate) fn make_room(&mut self, id: JobId, object: ObjectRef<Guarded>, most: usize) -> Room {
        if self.has(id) {
            return Room::There;
        }
        let mut room = Room::Free;
        if self.mirrors.len() >= most {
            let oldest = self.mirrors.iter().find(|(_, ended)| **ended).map(|(id, _)| *id);
            let Some(oldest) = oldest else { return Room::None };
            let name = self.objects.get(&oldest).map(|object| object.name.clone());
            self.remove(oldest);
            room = Room::InPlaceOf(name.unwrap_or_default());
        }
        self.put_mirror(id, object, false);
        room
    }

    /// Removes all objects but these.
    pub(crate) fn keep(&mut self, there: &HashSet<JobId>) {
        let gone: Vec<JobId> = self.objects.keys().filter(|id| !there.contains(id)).copied().collect();
        for id in gone {
            self.remove(id);
        }
    }

    /// The object to reconcile because of this event, if any.
    pub(crate) fn heard(&mut self, event: &JobEvent, now: Instant) -> Option<ObjectRef<Guarded>> {
        let object = self.objects.get(&event.job_id)?.clone();
        let id = event.job_id;
        if event.progress.is_some() && event.epoch.is_none() {
            // All parts of a job may fail at once. The last of them is told when its time comes (take_due).
            let due = self.part_failures.get(&id).map(|at| *at + PART_FAILURES);
            if let Some(due) = due.filter(|due| now < *due) {
                self.postponed.insert(id, due);
                return None;
            }
            self.postponed.remove(&id);
            self.part_failures.insert(id, now);
        } else if event.progress.is_some() {
            let recent =
                self.headway.get(&id).is_some_and(|at| now.saturating_duration_since(*at) < PROGRESS);
            if recent {
                return None;
            }
            self.headway.insert(id, now);
        } else if event.status.is_terminal() {
            self.headway.remove(&id);
            self.part_failures.remove(&id);
            self.postponed.remove(&id);
        } else {
            // The start already writes the first progress; the next update is due later.
            self.headway.insert(id, now);
        }
        self.dirty.insert(id);
        Some(object)
    }

    /// When the first of the objects is due that `heard` has postponed.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.postponed.values().min().copied()
    }

    /// The postponed objects whose time has come.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<ObjectRef<Guarded>> {
        let due: Vec<JobId> = self.postponed.extract_if(|_, at| *at <= now).map(|(id, _)| id).collect();
        for id in &due {
            self.part_failures.insert(*id, now);
            self.dirty.insert(*id);
        }
        due.iter().filter_map(|id| self.objects.get(id).cloned()).collect()
    }

    /// Events were lost: every object must be reconciled.
    pub(crate) fn missed(&mut self) -> Vec<ObjectRef<Guarded>> {
        self.dirty.extend(self.objects.keys());
        self.objects.values().cloned().collect()
    }

    /// Whether the job had events since the last call.
    pub(crate) fn take_dirty(&mut self, id: JobId) -> bool {
        self.dirty.remove(&id)
    }

    /// Marks the job as having events that were not handled yet.
    pub(crate) fn mark_dirty(&mut self, id: JobId) {
        if self.objects.contains_key(&id) {
            self.dirty.insert(id);
        }
    }

    /// Whether an object exists for this job.
    #[must_use]
    pub(crate) fn has(&self, id: JobId) -> bool {
        self.objects.contains_key(&id)
    }

    /// The status that was last written, if the store does not show it yet.
    pub(crate) fn written(
        &mut self,
        id: JobId,
        stored: Option<&TranscodeJobStatus>,
    ) -> Option<TranscodeJobStatus> {
        if self.written.get(&id) == stored {
            self.written.remove(&id);
            return None;
        }
        self.written.get(&id).cloned()
    }

    /// Records a status that was written.
    pub(crate) fn wrote(&mut self, id: JobId, status: TranscodeJobStatus) {
        if self.objects.contains_key(&id) {
            self.written.insert(id, status);
        }
    }

    /// Records that the object has our finalizer.
    pub(crate) fn hold(&mut self, id: JobId) {
        if self.objects.contains_key(&id) {
            self.held.insert(id);
        }
    }

    /// Records that the object's finalizer was removed.
    pub(crate) fn release(&mut self, id: JobId) {
        self.held.remove(&id);
    }

    /// Whether the object has our finalizer.
    #[must_use]
    pub(crate) fn holds(&self, id: JobId) -> bool {
        self.held.contains(&id)
    }

    /// Records a failed reconciliation; returns the number of consecutive failures.
    pub(crate) fn failed(&mut self, id: JobId) -> u32 {
        if !self.objects.contains_key(&id) {
            return 1;
        }
        let failures = self.failures.entry(id).or_default();
        *failures = failures.saturating_add(1);
        *failures
    }

    /// Records a successful reconciliation.
    pub(crate) fn succeeded(&mut self, id: JobId) {
        self.failures.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Epoch, State};

    fn event(id: JobId, status: State, progress: Option<f64>) -> JobEvent {
        let epoch = progress.map(|_| Epoch(1));
        JobEvent { event_id: "1-1".into(), job_id: id, status, progress, epoch }
    }

    #[test]
    fn changes_of_state_pass_and_headway_only_now_and_then() {
        let (id, stranger, began) = (JobId::new(), JobId::new(), Instant::now());
        let mut index = Index::default();
        index.put(id, ObjectRef::new("film").within("media"), None);
        assert!(index.heard(&event(stranger, State::Running, None), began).is_none());
        assert!(index.heard(&event(id, State::Running, None), began).is_some());
        assert!(index.take_dirty(id) && !index.take_dirty(id));
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut passed = Vec::new();
        for second in 0..35 {
            if index.heard(&event(id, State::Running, Some(1.0)), at(second)).is_some() {
                passed.push(second);
            }
        }
        assert_eq!(passed, [10, 20, 30]);
        assert!(index.heard(&event(id, State::Completed, None), at(30)).is_some());
    }

    #[test]
    fn failures_of_parts_pass_sooner_than_headway_and_not_all_of_them() {
        let (id, began) = (JobId::new(), Instant::now());
        let mut index = Index::default();
        index.put(id, ObjectRef::new("film").within("media"), None);
        let at = |millis| began + Duration::from_millis(millis);
        assert!(index.heard(&event(id, State::Running, Some(1.0)), at(0)).is_some());
        let failure = JobEvent { epoch: None, ..event(id, State::Running, Some(1.0)) };
        let passed: Vec<u64> =
            (0..6).map(|n| n * 700).filter(|t| index.heard(&failure, at(*t)).is_some()).collect();
        assert_eq!(passed, [0, 2100]);
        assert!(index.heard(&event(id, State::Running, Some(2.0)), at(3500)).is_none());
        // The failures since then are told together.
        assert_eq!(index.next_due(), Some(at(4100)));
        assert!(index.take_dirty(id));
        assert!(index.take_due(at(4099)).is_empty() && !index.take_dirty(id));
        assert_eq!(index.take_due(at(4100)).len(), 1);
        assert!(index.take_dirty(id) && index.next_due().is_none());
        assert!(index.heard(&failure, at(4200)).is_none() && index.next_due() == Some(at(6100)));
        assert!(index.heard(&event(id, State::Failed, None), at(4300)).is_some());
        assert!(index.next_due().is_none(), "the end tells all");
    }

    #[test]
    fn what_is_gone_leaves_nothing_behind() {
        let (id, other) = (JobId::new(), JobId::new());
        let mut index = Index::default();
        for id in [id, other] {
            index.put(id, ObjectRef::new(&id.to_string()).within("media"), None);
        }
        assert_eq!(index.missed().len(), 2);
        index.wrote(id, TranscodeJobStatus::default());
        assert_eq!((index.failed(id), index.failed(id)), (1, 2));
        index.keep(&HashSet::from([other]));
        assert!(!index.has(id) && index.has(other));
        assert!(!index.take_dirty(id) && index.take_dirty(other));
        assert_eq!((index.written(id, None), index.failed(id), index.failed(id)), (None, 1, 1));
        index.mark_dirty(id);
        assert!(!index.take_dirty(id));
    }

    #[test]
    fn the_oldest_mirror_that_has_ended_gives_way() {
        let ids: Vec<JobId> = (0..4).map(|_| JobId::new()).collect();
        let object = |n: usize| ObjectRef::new(&format!("api-{n}")).within("tcoder");
        let mut index = Index::default();
        assert_eq!(index.make_room(ids[0], object(0), 2), Room::Free);
        assert_eq!(index.make_room(ids[0], object(0), 2), Room::There);
        assert_eq!(index.make_room(ids[1], object(1), 2), Room::Free);
        assert_eq!(index.make_room(ids[2], object(2), 2), Room::None);
        index.put_mirror(ids[1], object(1), true);
        assert_eq!(index.make_room(ids[2], object(2), 2), Room::InPlaceOf("api-1".into()));
        assert!(index.has(ids[2]) && !index.has(ids[1]));
        assert_eq!(index.make_room(ids[3], object(3), 2), Room::None);
    }

    #[test]
    fn what_was_written_counts_until_the_store_shows_it() {
        let id = JobId::new();
        let mut index = Index::default();
        index.put(id, ObjectRef::new("film").within("media"), None);
        let new = TranscodeJobStatus { attempts: Some(1), ..Default::default() };
        let old = TranscodeJobStatus { attempts: Some(0), ..Default::default() };
        index.wrote(id, new.clone());
        assert_eq!(index.written(id, Some(&old)), Some(new.clone()));
        assert_eq!(index.written(id, Some(&new)), None);
        // From here on the store is trusted.
        assert_eq!(index.written(id, Some(&old)), None);
    }

    #[test]
    fn webhook_of_a_deleted_object_is_remembered_for_a_while() {
        let mut index = Index::default();
        let webhook = WebhookRequest {
            url: "https://example.com/hook".parse().unwrap(),
            secret: SecretRef { namespace: "media".into(), name: "hook".into(), key: "secret".into() },
        };
        let put = |index: &mut Index, id| {
            index.put(id, ObjectRef::new("film").within("media"), Some(webhook.clone()));
        };
        let first = JobId::new();
        put(&mut index, first);
        index.remove(first);
        assert_eq!(index.webhook(first), Some(&webhook));
        for _ in 0..REMEMBERED {
            let id = JobId::new();
            put(&mut index, id);
            index.remove(id);
        }
        assert_eq!((index.webhook(first), index.webhooks.len()), (None, REMEMBERED));
    }
}
