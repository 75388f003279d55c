//! Proves what a run has to leave behind, from Redis, storage and the receivers' log alone.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use futures::{StreamExt as _, stream};
use serde_json::Value;
use strum::{IntoStaticStr, VariantArray};
use tcoder::config::StorageConfig;
use tcoder::job::{Container, EntryKind, Job, JobId, JobResult, State};
use tcoder::queue::Queue;
use tcoder::storage::layout;
use tokio::process::Command;

use super::load::Plan;
use super::receivers::Received;
use super::storage::output_url;
use crate::support::objects::client;

/// A way in which a run can fail, by the name of its figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, VariantArray, IntoStaticStr)]
pub enum Violation {
    /// An accepted job that has not ended, or has no record.
    #[strum(serialize = "chaos_lost")]
    Lost,
    #[strum(serialize = "chaos_double_completed")]
    DoubleCompleted,
    /// A failed job whose manifest carries a result.
    #[strum(serialize = "chaos_failed_with_manifest")]
    FailedWithManifest,
    /// A job that failed as if its video, which is good, were the reason; or one that completed without a video.
    #[strum(serialize = "chaos_wrong_verdicts")]
    WrongVerdict,
    /// A completed job without its manifest, or with outputs that are absent, not whole, or do not play.
    #[strum(serialize = "chaos_damaged_outputs")]
    DamagedOutput,
    #[strum(serialize = "chaos_missing_webhooks")]
    MissingWebhook,
    /// Messages about one end of a job with several ids, or with another state than the job's.
    #[strum(serialize = "chaos_contradicting_webhooks")]
    ContradictingWebhooks,
    /// An object in the bucket of outputs that belongs to no result.
    #[strum(serialize = "chaos_leftover_objects")]
    LeftoverObject,
    #[strum(serialize = "chaos_leftover_files")]
    LeftoverFile,
    #[strum(serialize = "chaos_orphan_processes")]
    OrphanProcess,
    #[strum(serialize = "chaos_orphan_machines")]
    OrphanMachine,
    /// A message about an upload that the Worker gave up.
    #[strum(serialize = "chaos_dead_letters")]
    DeadLetter,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub jobs: usize,
    pub completed: usize,
    /// The number of jobs whose outputs were decoded.
    pub decoded: usize,
    /// The number of objects that the janitor is going to delete.
    pub doomed: usize,
    pub found: BTreeMap<Violation, Vec<String>>,
}

impl Report {
    pub fn add(&mut self, violation: Violation, what: impl Into<String>) {
        self.found.entry(violation).or_default().push(what.into());
    }

    pub fn add_all(&mut self, violation: Violation, all: Vec<String>) {
        all.into_iter().for_each(|what| self.add(violation, what));
    }

    pub fn is_clean(&self) -> bool {
        self.found.is_empty()
    }

    /// The counts, `name value unit`.
    pub fn figures(&self) -> String {
        let mut lines = vec![
            format!("chaos_jobs {} jobs", self.jobs),
            format!("chaos_completed {} jobs", self.completed),
            format!("chaos_decoded {} jobs", self.decoded),
            format!("chaos_scheduled_deletions {} objects", self.doomed),
        ];
        lines.extend(Violation::VARIANTS.iter().map(|violation| {
            let name: &str = violation.into();
            format!("{name} {} found", self.found.get(violation).map_or(0, Vec::len))
        }));
        lines.join("\n")
    }
}

/// What is known.
pub struct Evidence<'a> {
    pub queue: &'a Queue,
    pub storage: &'a StorageConfig,
    pub received: &'a [Received],
    pub accepted: &'a [Plan],
    /// How often each job was completed, by Redis's stream of events.
    pub completions: &'a BTreeMap<JobId, usize>,
    /// The attempts whose outputs the janitor is going to delete, if these count as deleted: `<job>:<epoch>`.
    pub doomed: &'a BTreeSet<String>,
    /// Whether a failover made Redis forget writes, after which a job may be completed again, with the same result.
    pub forgot: bool,
}

/// A job, its manifest and the messages about it.
struct Found<'a> {
    plan: &'a Plan,
    job: Job,
    manifest: Option<Value>,
    messages: Vec<&'a Received>,
}

impl Found<'_> {
    /// Whether the manifest carries a result of this job, not of an older one with its id.
    fn has_result(&self) -> bool {
        let created = self.job.timestamps.created_at.unwrap().0;
        self.manifest.as_ref().is_some_and(|m| m["born"] == created && m.get("result").is_some())
    }
}

/// The sizes of all objects in the bucket of outputs, and the uploads in parts that nobody has finished.
async fn outputs(storage: &StorageConfig) -> (BTreeMap<String, u64>, Vec<String>) {
    let s3 = client(storage);
    let mut pages = s3.list_objects_v2().bucket(&storage.output_bucket).into_paginator().send();
    let mut objects = BTreeMap::new();
    while let Some(page) = pages.next().await {
        let listed = page.unwrap().contents.unwrap_or_default();
        objects
            .extend(listed.iter().map(|o| (o.key().unwrap().to_owned(), o.size().unwrap().unsigned_abs())));
    }
    let uploads = s3.list_multipart_uploads().bucket(&storage.output_bucket).send().await.unwrap();
    let uploads = uploads.uploads().iter().map(|upload| upload.key().unwrap().to_owned()).collect();
    (objects, uploads)
}

async fn manifest(storage: &StorageConfig, id: JobId) -> Option<Value> {
    let key = format!("outputs/{id}/manifest.json");
    let got = client(storage).get_object().bucket(&storage.output_bucket).key(key).send().await.ok()?;
    serde_json::from_slice(&got.body.collect().await.unwrap().into_bytes()).ok()
}

/// The keys of a result, with their sizes where it says them.
fn keys_of(result: &JobResult) -> Vec<(String, Option<u64>)> {
    let mut keys = Vec::new();
    for output in &result.outputs {
        let is_one_file = output.info.container != Container::Hls;
        keys.push((output.key.to_string(), is_one_file.then_some(output.info.size)));
    }
    keys.extend(result.entries.iter().map(|entry| (entry.key.to_string(), None)));
    keys.extend(result.poster.iter().map(|poster| (poster.key.to_string(), Some(poster.size))));
    if let Some(board) = &result.storyboard {
        keys.push((board.key.to_string(), None));
        keys.push((board.image_key.to_string(), Some(board.size)));
    }
    keys
}

/// Whether the result has segments, which only its playlists name.
fn has_segments(result: &JobResult) -> bool {
    result.outputs.iter().any(|output| output.info.container == Container::Hls)
}

impl Evidence<'_> {
    /// Looks at everything, and decodes the outputs of at most `decode` jobs.
    pub async fn check(&self, decode: usize) -> Report {
        let mut report = Report { jobs: self.accepted.len(), ..Report::default() };
        let mut messages: BTreeMap<&str, Vec<&Received>> = BTreeMap::new();
        for message in self.received {
            messages.entry(&message.job).or_default().push(message);
        }
        let mut found = Vec::new();
        for plan in self.accepted {
            match self.record(plan.id).await {
                None => report.add(Violation::Lost, format!("{} has no record", plan.id)),
                Some(job) => {
                    let created = job.timestamps.created_at.unwrap().0;
                    let mut messages = messages.remove(plan.id.to_string().as_str()).unwrap_or_default();
                    // That a job can be played says nothing about its end.
                    messages.retain(|message| message.created == created && message.status != "playable");
                    let manifest = manifest(self.storage, plan.id).await;
                    found.push(Found { plan, job, manifest, messages });
                }
            }
        }
        let (objects, uploads) = outputs(self.storage).await;
        let mut listed = BTreeSet::from([layout::probe_key().unwrap().to_string()]);
        for one in &found {
            self.check_job(one, &mut report);
            self.check_outputs(one, &objects, &mut listed, &mut report);
        }
        let leftovers = objects.into_keys().filter(|key| !listed.contains(key));
        let (doomed, left): (Vec<_>, Vec<_>) = leftovers.partition(|key| self.is_doomed(key));
        report.doomed = doomed.len();
        report.add_all(Violation::LeftoverObject, left);
        report.add_all(Violation::LeftoverObject, uploads);
        self.play(&found, decode, &mut report).await;
        report
    }

    fn is_doomed(&self, key: &str) -> bool {
        let attempt =
            key.parse().ok().and_then(|key| Some(layout::attempt_of_output_key(&key)?.0.to_string()));
        attempt.is_some_and(|attempt| self.doomed.contains(&attempt))
    }

    async fn record(&self, id: JobId) -> Option<Job> {
        // The first call after an outage finds the connection broken, and opens another one.
        match self.queue.get(id).await {
            Err(error) if error.is_transient() => self.queue.get(id).await.unwrap(),
            answer => answer.unwrap(),
        }
    }

    fn check_job(&self, found: &Found<'_>, report: &mut Report) {
        let Found { plan, job, messages, .. } = found;
        let id = plan.id;
        if !job.status.is_terminal() {
            report.add(Violation::Lost, format!("{id} is still {}: {:?}", job.status, job.error));
            return;
        }
        if job.status == State::Failed && found.has_result() {
            report.add(Violation::FailedWithManifest, format!("{id} failed: {:?}", job.error));
        }
        if let Some(failure) = job.error.as_ref().filter(|_| job.status == State::Failed)
            && plan.good
            && !failure.code.is_retryable()
        {
            report.add(Violation::WrongVerdict, format!("{id} is a video, and failed: {failure:?}"));
        }
        if job.status == State::Completed && !plan.good {
            report.add(Violation::WrongVerdict, format!("{id} is no video, and completed"));
        }
        let completions = self.completions.get(&id).copied().unwrap_or(0);
        let ids: BTreeSet<&str> =
            messages.iter().filter(|m| m.status == "completed").map(|m| m.id.as_str()).collect();
        if ids.len() > 1 || completions > 1 && !self.forgot {
            report.add(
                Violation::DoubleCompleted,
                format!("{id} completed {completions} times, by messages {ids:?}"),
            );
        }
        let (right, wrong): (Vec<&Received>, Vec<&Received>) =
            messages.iter().partition(|message| message.status == job.status.to_string());
        let names: BTreeSet<&str> = right.iter().map(|message| message.id.as_str()).collect();
        if right.is_empty() {
            report.add(Violation::MissingWebhook, format!("no message says that {id} is {}", job.status));
        }
        if names.len() > 1 || !wrong.is_empty() {
            report.add(Violation::ContradictingWebhooks, format!("{id} is {}: {messages:?}", job.status));
        }
    }

    /// Checks the objects of a job by their sizes, and adds those that belong to its result to `listed`.
    fn check_outputs(
        &self,
        found: &Found<'_>,
        objects: &BTreeMap<String, u64>,
        listed: &mut BTreeSet<String>,
        report: &mut Report,
    ) {
        let (id, job) = (found.plan.id, &found.job);
        let manifest = format!("outputs/{id}/manifest.json");
        if job.status == State::Failed && !found.has_result() {
            // It says that the job has failed.
            listed.insert(manifest);
            return;
        }
        let Some(result) = job.result.as_ref().filter(|_| job.status == State::Completed) else { return };
        report.completed += 1;
        let epoch = job.committed.unwrap();
        if !found.has_result() || found.manifest.as_ref().unwrap()["epoch"] != epoch.0 {
            report.add(Violation::DamagedOutput, format!("{id} has no manifest of attempt {epoch}"));
        }
        listed.insert(manifest);
        // The outputs of a job in parts are in the folder of the attempt that split it.
        let folder =
            found.manifest.as_ref().and_then(|manifest| manifest["folder"].as_u64()).unwrap_or(epoch.0);
        let prefix = format!("outputs/{id}/{folder}/");
        for (key, size) in keys_of(result) {
            let there = objects.get(&key);
            if there.is_none() || size.is_some_and(|size| there != Some(&size)) || !key.starts_with(&prefix) {
                let text = format!("{key} should have {size:?} bytes, and has {there:?}");
                report.add(Violation::DamagedOutput, text);
            }
            listed.insert(key);
        }
        if has_segments(result) {
            listed.extend(objects.keys().filter(|key| key.starts_with(&prefix)).cloned());
        }
    }

    /// Decodes the outputs of some completed jobs, evenly chosen.
    async fn play(&self, found: &[Found<'_>], decode: usize, report: &mut Report) {
        let results: Vec<_> = found.iter().filter_map(|one| one.job.result.as_ref()).collect();
        let step = results.len().div_ceil(decode.max(1)).max(1);
        let chosen: Vec<_> = results.into_iter().step_by(step).take(decode).collect();
        report.decoded = chosen.len();
        let keys = chosen.into_iter().flat_map(|result| {
            let playlists = result.entries.iter().filter(|entry| entry.kind == EntryKind::Hls);
            let outputs = result.outputs.iter().map(|output| output.key.to_string());
            outputs.chain(playlists.map(|entry| entry.key.to_string())).collect::<Vec<_>>()
        });
        let decoded = stream::iter(keys).map(|key| async move {
            let url = output_url(self.storage, &key);
            decodes(&url).await.err().map(|why| format!("{key} does not play: {why}"))
        });
        let broken: Vec<_> = decoded.buffer_unordered(2).filter_map(std::future::ready).collect().await;
        report.add_all(Violation::DamagedOutput, broken);
    }
}

/// Decodes all of a file or a playlist.
async fn decodes(url: &str) -> Result<(), String> {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-nostdin", "-v", "error", "-xerror", "-i", url, "-f", "null", "-"]);
    let output = ffmpeg.stdin(Stdio::null()).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() && said.is_empty() { Ok(()) } else { Err(said) }
}
